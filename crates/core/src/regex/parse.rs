//! RE2's grammar (<https://github.com/google/re2/wiki/Syntax>) as Envoy uses it since 1.39: Latin-1, else default options.
//!
//! What RE2 accepts and this refuses: `\p`, `\P`, `\C`, nesting deeper than [`MAX_DEPTH`], a repetition directly after
//! `(?i)`, and capture names outside ASCII.

use super::RegexError;
use super::class::Class;

/// Groups in groups: bounds the recursion of parser and compiler.
const MAX_DEPTH: usize = 200;
/// RE2's limit on a counted repetition, and on the product of nested ones.
const MAX_REPEAT: u32 = 1000;

/// A parsed pattern. Order, greediness and groups do not change whether a whole value matches; what is replaced, they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ast {
    /// Matches without consuming anything.
    Empty,
    /// One character of a set.
    Class(Class),
    /// A place in the text.
    Look(Look),
    /// One after the other.
    Concat(Vec<Ast>),
    /// Any of them.
    Alternate(Vec<Ast>),
    /// `min` to `max` times; no `max` is without bound.
    Repeat { sub: Box<Ast>, min: u32, max: Option<u32>, counted: bool, lazy: bool },
    /// A group that a substitution may name, from 1 on.
    Group { sub: Box<Ast>, number: usize },
}

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordBoundary,
    NotWordBoundary,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_newline: bool,
    /// `(?U)`: greedy and lazy are swapped.
    swapped: bool,
}

struct Parser<'p> {
    rest: &'p str,
    depth: usize,
    names: Vec<&'p str>,
    groups: usize,
}

/// A pattern, and how many groups it has.
pub(super) struct Parsed {
    pub(super) ast: Ast,
    pub(super) groups: usize,
}

/// Parses a pattern.
pub(super) fn parse(pattern: &str) -> Result<Parsed, RegexError> {
    // A byte is a character: the pattern's bytes as the characters of that number.
    let letters: String = pattern.bytes().map(char::from).collect();
    let mut parser = Parser { rest: &letters, depth: 0, names: Vec::new(), groups: 0 };
    let ast = parser.alternation(&mut Flags::default())?;
    let groups = parser.groups;
    if parser.rest.is_empty() { Ok(Parsed { ast, groups }) } else { Err(RegexError::new("`)` without `(`")) }
}

impl<'p> Parser<'p> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.rest = self.rest.get(letter.len_utf8()..).unwrap_or_default();
        Some(letter)
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Up to the end of the group; flags set inside last until there.
    fn alternation(&mut self, flags: &mut Flags) -> Result<Ast, RegexError> {
        let mut branches = vec![self.concatenation(flags)?];
        while self.take("|") {
            branches.push(self.concatenation(flags)?);
        }
        Ok(match branches.len() {
            1 => branches.pop().unwrap_or(Ast::Empty),
            _ => Ast::Alternate(branches),
        })
    }

    fn concatenation(&mut self, flags: &mut Flags) -> Result<Ast, RegexError> {
        let mut items = Vec::new();
        while let Some(letter) = self.peek() {
            match letter {
                '|' | ')' => break,
                '*' | '+' | '?' => return Err(RegexError::new(format!("`{letter}` has nothing to repeat"))),
                '{' if self.counted()?.is_some() => {
                    return Err(RegexError::new("`{…}` has nothing to repeat"));
                }
                _ => {}
            }
            // `(?i)` and `\Q\E` add nothing that a repetition could follow.
            let Some(item) = self.atom(flags, &mut items)? else { continue };
            items.push(self.repeated(item, *flags)?);
        }
        Ok(match items.len() {
            0 => Ast::Empty,
            1 => items.pop().unwrap_or(Ast::Empty),
            _ => Ast::Concat(items),
        })
    }

    fn repeated(&mut self, item: Ast, flags: Flags) -> Result<Ast, RegexError> {
        let Some((min, max, counted)) = self.repetition()? else { return Ok(item) };
        let mut repeat = Ast::Repeat { sub: Box::new(item), min, max, counted, lazy: flags.swapped };
        if counted && repeat_budget(&repeat, MAX_REPEAT) == 0 {
            return Err(RegexError::new(format!("repeats more than {MAX_REPEAT} times")));
        }
        if let (true, Ast::Repeat { lazy, .. }) = (self.take("?"), &mut repeat) {
            *lazy = !*lazy;
        }
        match self.repetition()? {
            Some(_) => {
                Err(RegexError::new("a repetition of a repetition; write a group around the inner one"))
            }
            None => Ok(repeat),
        }
    }

    fn repetition(&mut self) -> Result<Option<(u32, Option<u32>, bool)>, RegexError> {
        Ok(match self.peek() {
            Some('*') => self.next().map(|_| (0, None, false)),
            Some('+') => self.next().map(|_| (1, None, false)),
            Some('?') => self.next().map(|_| (0, Some(1), false)),
            Some('{') => self.counted()?.map(|(min, max)| (min, max, true)),
            _ => None,
        })
    }

    /// `{n}`, `{n,}`, `{n,m}`; any other `{` is a literal one.
    fn counted(&mut self) -> Result<Option<(u32, Option<u32>)>, RegexError> {
        let Some((inside, rest)) = self.rest.strip_prefix('{').and_then(|text| text.split_once('}')) else {
            return Ok(None);
        };
        let bounds = match inside.split_once(',') {
            None => count(inside).map(|number| (number, Some(number))),
            Some((min, "")) => count(min).map(|min| (min, None)),
            Some((min, max)) => count(min).zip(count(max)).map(|(min, max)| (min, Some(max))),
        };
        let Some((min, max)) = bounds else { return Ok(None) };
        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min) {
            return Err(RegexError::new(format!("`{{{inside}}}` is not a range within 0 to {MAX_REPEAT}")));
        }
        self.rest = rest;
        Ok(Some((min, max)))
    }

    fn atom(&mut self, flags: &mut Flags, items: &mut Vec<Ast>) -> Result<Option<Ast>, RegexError> {
        let Some(letter) = self.next() else { return Ok(None) };
        Ok(Some(match letter {
            '(' => return self.group(flags),
            '[' => self.bracket(*flags)?,
            '.' => Ast::Class(Class::dot(flags.dot_newline)),
            '^' => Ast::Look(if flags.multi_line { Look::LineStart } else { Look::TextStart }),
            '$' => Ast::Look(if flags.multi_line { Look::LineEnd } else { Look::TextEnd }),
            '\\' if self.take("Q") => return Ok(self.quoted(*flags, items)),
            '\\' => self.escape(*flags)?,
            _ => literal(letter, *flags),
        }))
    }

    /// `\Q…\E`; what follows repeats the last character only.
    fn quoted(&mut self, flags: Flags, items: &mut Vec<Ast>) -> Option<Ast> {
        let (text, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
        self.rest = rest;
        let mut letters = text.chars();
        let last = letters.next_back();
        items.extend(letters.map(|letter| literal(letter, flags)));
        last.map(|letter| literal(letter, flags))
    }

    fn escape(&mut self, flags: Flags) -> Result<Ast, RegexError> {
        let Some(letter) = self.peek() else { return Err(RegexError::new("ends in `\\`")) };
        let look = match letter {
            'A' => Some(Look::TextStart),
            'z' => Some(Look::TextEnd),
            'b' => Some(Look::WordBoundary),
            'B' => Some(Look::NotWordBoundary),
            _ => None,
        };
        if let Some(look) = look {
            self.next();
            return Ok(Ast::Look(look));
        }
        if let Some(class) = self.perl_class(flags) {
            return Ok(Ast::Class(class));
        }
        Ok(character(self.escaped_character()?, flags))
    }

    /// `d`, `D`, `s`, `S`, `w`, `W` after a backslash.
    fn perl_class(&mut self, flags: Flags) -> Option<Class> {
        let letter = self.peek()?;
        let class = Class::perl(letter)?;
        self.next();
        let class = if flags.fold { class.folded() } else { class };
        Some(if letter.is_ascii_uppercase() { class.negated() } else { class })
    }

    /// The character that an escape stands for, after its backslash.
    fn escaped_character(&mut self) -> Result<u32, RegexError> {
        let Some(letter) = self.next() else { return Err(RegexError::new("ends in `\\`")) };
        Ok(match letter {
            'n' => 10,
            't' => 9,
            'r' => 13,
            'f' => 12,
            'v' => 11,
            'a' => 7,
            'x' => self.hexadecimal()?,
            '0' => self.octal(0),
            '1'..='7' if self.peek().is_some_and(|next| next.is_digit(8)) => {
                self.octal(letter.to_digit(8).unwrap_or_default())
            }
            '0'..='9' | 'k' => return Err(RegexError::new("back-references are not supported")),
            'p' | 'P' | 'C' => return Err(RegexError::new(format!("`\\{letter}` is not supported"))),
            _ if letter.is_ascii() && !letter.is_ascii_alphanumeric() => u32::from(letter),
            _ => return Err(RegexError::new(format!("`\\{letter}` is not an escape"))),
        })
    }

    /// Up to two more octal digits.
    fn octal(&mut self, first: u32) -> u32 {
        let mut code = first;
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|letter| letter.to_digit(8)) else { break };
            self.next();
            code = code * 8 + digit;
        }
        code
    }

    /// `\x7F` or `\x{10FFFF}`.
    fn hexadecimal(&mut self) -> Result<u32, RegexError> {
        let bad =
            || RegexError::new("`\\x` needs two hexadecimal digits or `{…}` up to FF: a character is a byte");
        let digits = if self.take("{") {
            let (digits, rest) = self.rest.split_once('}').ok_or_else(bad)?;
            self.rest = rest;
            digits
        } else {
            let (digits, rest) = self.rest.split_at_checked(2).ok_or_else(bad)?;
            self.rest = rest;
            digits
        };
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u32::from_str_radix(digits, 16).ok().filter(|code| *code <= 0xff).ok_or_else(bad)
    }

    /// After `(`. `None` for a group that only sets flags.
    fn group(&mut self, flags: &mut Flags) -> Result<Option<Ast>, RegexError> {
        let mut inner = *flags;
        let mut number = None;
        if self.take("?") {
            if self.take("P<") || (self.rest.starts_with('<') && !self.look_behind() && self.take("<")) {
                self.name()?;
                number = Some(self.next_group());
            } else if self.flags(&mut inner)? {
                *flags = inner;
                return Ok(None);
            }
        } else {
            number = Some(self.next_group());
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(RegexError::new(format!("groups are nested deeper than {MAX_DEPTH}")));
        }
        let ast = self.alternation(&mut inner)?;
        self.depth -= 1;
        if !self.take(")") {
            return Err(RegexError::new("`(` without `)`"));
        }
        Ok(Some(match number {
            Some(number) => Ast::Group { sub: Box::new(ast), number },
            None => ast,
        }))
    }

    fn next_group(&mut self) -> usize {
        self.groups += 1;
        self.groups
    }

    fn look_behind(&self) -> bool {
        self.rest.starts_with("<=") || self.rest.starts_with("<!")
    }

    fn name(&mut self) -> Result<(), RegexError> {
        let bad = || RegexError::new("a group's name is letters, digits and `_`, used once");
        let (name, rest) = self.rest.split_once('>').ok_or_else(bad)?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || self.names.contains(&name) {
            return Err(bad());
        }
        self.names.push(name);
        self.rest = rest;
        Ok(())
    }

    /// `i`, `m`, `s`, `U` with `-`, up to `:` (false) or `)` (true).
    fn flags(&mut self, flags: &mut Flags) -> Result<bool, RegexError> {
        let mut on = true;
        let mut named = false;
        loop {
            match self.next() {
                Some('i') => flags.fold = on,
                Some('m') => flags.multi_line = on,
                Some('s') => flags.dot_newline = on,
                Some('U') => flags.swapped = on,
                Some('-') if on => {
                    (on, named) = (false, false);
                    continue;
                }
                Some(end @ (':' | ')')) if on || named => return Ok(end == ')'),
                Some('=' | '!' | '<') => return Err(RegexError::new("look-around is not supported")),
                _ => return Err(RegexError::new("`(?` is followed by what RE2 does not know")),
            }
            named = true;
        }
    }

    /// After `[`.
    fn bracket(&mut self, flags: Flags) -> Result<Ast, RegexError> {
        let negated = self.take("^");
        let mut class = Class::default();
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            if self.rest.is_empty() {
                return Err(RegexError::new("`[` without `]`"));
            }
            first = false;
            class.add_all(self.bracket_item(flags)?);
        }
        self.next();
        Ok(Ast::Class(if negated { class.negated() } else { class }))
    }

    fn bracket_item(&mut self, flags: Flags) -> Result<Class, RegexError> {
        if let Some((name, rest)) = self.rest.strip_prefix("[:").and_then(|text| text.split_once(":]")) {
            let (bare, negated) = name.strip_prefix('^').map_or((name, false), |bare| (bare, true));
            let Some(class) = Class::posix(bare) else {
                return Err(RegexError::new(format!("`[:{name}:]` is not a class")));
            };
            self.rest = rest;
            let class = if flags.fold { class.folded() } else { class };
            return Ok(if negated { class.negated() } else { class });
        }
        if let Some(after) = self.rest.strip_prefix('\\') {
            let before = std::mem::replace(&mut self.rest, after);
            if let Some(class) = self.perl_class(flags) {
                return Ok(class);
            }
            self.rest = before;
        }
        let low = self.bracket_character()?;
        let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1;
        let high = if is_range && self.take("-") { self.bracket_character()? } else { low };
        if high < low {
            return Err(RegexError::new("a range in `[…]` runs backwards"));
        }
        let mut class = Class::default();
        class.add(low, high);
        Ok(if flags.fold { class.folded() } else { class })
    }

    fn bracket_character(&mut self) -> Result<u32, RegexError> {
        match self.next() {
            Some('\\') => self.escaped_character(),
            Some(letter) => Ok(u32::from(letter)),
            None => Err(RegexError::new("`[` without `]`")),
        }
    }
}

fn literal(letter: char, flags: Flags) -> Ast {
    character(u32::from(letter), flags)
}

fn character(letter: u32, flags: Flags) -> Ast {
    let class = Class::of(letter);
    Ast::Class(if flags.fold { class.folded() } else { class })
}

/// A count without leading zeros; past RE2's limit it only has to stay past it.
fn count(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    if digits.is_empty() || !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// RE2's walk over nested counted repetitions: what is left of the budget, 0 when it is exceeded.
fn repeat_budget(ast: &Ast, budget: u32) -> u32 {
    match ast {
        Ast::Repeat { sub, min, max, counted, .. } => {
            let times = if *counted { max.unwrap_or(*min).max(1) } else { 1 };
            repeat_budget(sub, budget / times)
        }
        Ast::Concat(items) | Ast::Alternate(items) => {
            items.iter().map(|item| repeat_budget(item, budget)).min().unwrap_or(budget)
        }
        Ast::Group { sub, .. } => repeat_budget(sub, budget),
        Ast::Empty | Ast::Class(_) | Ast::Look(_) => budget,
    }
}

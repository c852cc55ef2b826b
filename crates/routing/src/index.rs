//! Which entries of a host a request may match.
//!
//! Every condition that asks for a text is a way to file an entry: the path, a header (method, scheme and authority are
//! headers too), a parameter of the query. What asks for an absence, or for a pattern without a fixed beginning, is none.
//! The candidates come out in the order of the rules, so that the first match stays the first match.

use std::ops::Range;

use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::index::{Builder, Choice, Index, Key, Number, Values};
use sailcloth_resources::virtual_service::StringMatch;

use crate::condition::{Conditions, PathCondition, View, params};

/// Up to so many entries are all tried.
const FEW: usize = 4;

/// Of how many headers or parameters the rules may ask for each; from there on those of the request are looked up.
const FEW_NAMES: usize = 4;

/// Where a text comes from, the cheapest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dimension {
    Path,
    /// In lower case.
    FoldedPath,
    Header(String),
    /// The first parameter of that name.
    Param(String),
}

/// The entries of a host, by what they ask for.
#[derive(Debug)]
pub(crate) enum Routes {
    /// So few that all of them are tried.
    Few(Number),
    /// Filed.
    Filed(Index<Dimension>),
}

impl Routes {
    /// Files entries by their place.
    pub(crate) fn of<'c>(conditions: impl ExactSizeIterator<Item = &'c Conditions>) -> Self {
        if conditions.len() <= FEW {
            return Self::Few(Number::try_from(conditions.len()).unwrap_or_default());
        }
        let mut builder = Builder::default();
        for conditions in conditions {
            builder.add(choices(conditions));
        }
        Self::Filed(builder.build())
    }

    /// The entries that may match, in their order.
    pub(crate) fn candidates(&self, view: &View<'_>) -> Vec<Number> {
        match self {
            Self::Few(count) => (0..*count).collect(),
            Self::Filed(index) => {
                let mut found = Vec::new();
                index.find_among(&mut found, view);
                found
            }
        }
    }
}

fn choices(conditions: &Conditions) -> Vec<Choice<Dimension>> {
    let mut choices = vec![path_choice(&conditions.path)];
    let headers = conditions.headers.iter().filter(|condition| !condition.negated);
    choices.extend(headers.map(|condition| Choice {
        dimension: Dimension::Header(condition.name.clone()),
        keys: keys(&condition.value),
    }));
    let params = conditions.params.iter();
    choices.extend(
        params.map(|(name, value)| Choice { dimension: Dimension::Param(name.clone()), keys: keys(value) }),
    );
    choices
}

fn path_choice(path: &PathCondition) -> Choice<Dimension> {
    let (dimension, keys) = match path {
        PathCondition::Exact(text) => (Dimension::Path, vec![Key::Exact(text.as_bytes().to_vec())]),
        PathCondition::Prefix(text) => (Dimension::Path, vec![Key::Prefix(text.as_bytes().to_vec())]),
        PathCondition::ExactAnyCase(text) => {
            (Dimension::FoldedPath, vec![Key::Exact(text.as_bytes().to_vec())])
        }
        PathCondition::PrefixAnyCase(text) => {
            (Dimension::FoldedPath, vec![Key::Prefix(text.as_bytes().to_vec())])
        }
        PathCondition::Regex(regex) => (Dimension::Path, regex.keys()),
    };
    Choice { dimension, keys }
}

fn keys(value: &StringMatch) -> Vec<Key> {
    match value {
        StringMatch::Present => vec![Key::Prefix(Vec::new())],
        StringMatch::Exact(text) => vec![Key::Exact(text.as_bytes().to_vec())],
        StringMatch::Prefix(text) => vec![Key::Prefix(text.as_bytes().to_vec())],
        StringMatch::Regex(regex) => regex.keys(),
    }
}

impl Values<Dimension> for View<'_> {
    fn show(&self, dimensions: &[Dimension], see: &mut dyn FnMut(usize, &[u8])) {
        let headers = dimensions.partition_point(|dimension| *dimension <= Dimension::FoldedPath);
        let params = dimensions.partition_point(|dimension| !matches!(dimension, Dimension::Param(_)));
        for (at, dimension) in dimensions.iter().take(headers).enumerate() {
            match dimension {
                Dimension::Path => see(at, self.path),
                _ => see(at, &self.path.to_ascii_lowercase()),
            }
        }
        let named = |range: Range<usize>| Names {
            first: range.start,
            names: dimensions.get(range).unwrap_or_default(),
        };
        show_headers(self.request.headers, &named(headers..params), see);
        show_params(self.request.target(), &named(params..dimensions.len()), see);
    }
}

/// The dimensions of one sort that have names; these ascend.
struct Names<'d> {
    first: usize,
    names: &'d [Dimension],
}

impl<'d> Names<'d> {
    fn are_few(&self) -> bool {
        self.names.len() <= FEW_NAMES
    }

    fn each(&self) -> impl Iterator<Item = (usize, &'d str)> {
        (self.first..).zip(self.names).map(|(at, dimension)| (at, dimension.name()))
    }

    /// The dimension of this name, the first time it is asked for.
    fn find(&self, name: &[u8], shown: &mut Shown) -> Option<(usize, &'d str)> {
        let at = self.names.binary_search_by(|dimension| dimension.name().as_bytes().cmp(name)).ok()?;
        shown.is_first(at).then_some(())?;
        Some((self.first + at, self.names.get(at)?.name()))
    }
}

/// Dimensions whose value was shown, as bits: a client may repeat a name as often as fits into its request.
#[derive(Default)]
struct Shown(Vec<u64>);

impl Shown {
    fn is_first(&mut self, at: usize) -> bool {
        let (word, bit) = (at / 64, 1_u64 << (at % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return true };
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }
}

impl Dimension {
    fn name(&self) -> &str {
        match self {
            Self::Header(name) | Self::Param(name) => name,
            Self::Path | Self::FoldedPath => "",
        }
    }
}

/// Every value of a repeated header, as each is compared alone.
fn show_headers(headers: &HeaderBlock, wanted: &Names<'_>, see: &mut dyn FnMut(usize, &[u8])) {
    let mut show = |at: usize, name: &str| headers.all(name).for_each(|value| see(at, value));
    if wanted.are_few() {
        return wanted.each().for_each(|(at, name)| show(at, name));
    }
    let mut shown = Shown::default();
    for (name, _) in headers.iter() {
        if let Some((at, name)) = wanted.find(name, &mut shown) {
            show(at, name);
        }
    }
}

fn show_params(target: &[u8], wanted: &Names<'_>, see: &mut dyn FnMut(usize, &[u8])) {
    if wanted.are_few() {
        for (at, name) in wanted.each() {
            if let Some((_, value)) = params(target).find(|(key, _)| *key == name.as_bytes()) {
                see(at, value);
            }
        }
        return;
    }
    let mut shown = Shown::default();
    for (name, value) in params(target) {
        if let Some((at, _)) = wanted.find(name, &mut shown) {
            see(at, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use sailcloth_core::facts::{Facts, NoProperties, Sources};
    use sailcloth_core::regex::Regex;
    use sailcloth_core::request::Request;
    use sailcloth_resources::virtual_service::HttpMatch;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::engine::{Entry, Table};

    /// Small numbers from a fixed seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((self.0 >> 33) % u64::try_from(limit).unwrap()).unwrap()
        }

        fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
            texts[self.below(texts.len())]
        }

        fn path(&mut self) -> String {
            (0..=self.below(3)).map(|_| self.of(&["/", "/a", "/b", "/A", "/ab", "b"])).collect()
        }

        fn text(&mut self) -> String {
            (0..self.below(4)).map(|_| self.of(&["x", "y", ","])).collect()
        }

        fn condition(&mut self, text: String) -> StringMatch {
            let regex = |pattern: &str| StringMatch::Regex(Rc::new(Regex::new(pattern).unwrap()));
            match self.below(6) {
                0 => StringMatch::Present,
                1 | 2 => StringMatch::Exact(text),
                3 => StringMatch::Prefix(text),
                4 => regex(&format!("{text}(/.*)?")),
                _ => regex(&format!("(?i).*{text}")),
            }
        }

        fn named(&mut self, most: usize, names: usize) -> Vec<(String, StringMatch)> {
            (0..self.below(most + 1))
                .map(|_| {
                    let text = self.text();
                    (format!("n{}", self.below(names)), self.condition(text))
                })
                .collect()
        }

        fn rule(&mut self, names: usize) -> HttpMatch {
            let path = self.path();
            let text = self.text();
            HttpMatch {
                uri: (self.below(3) > 0).then(|| self.condition(path)),
                ignore_uri_case: self.below(4) == 0,
                method: (self.below(5) == 0).then(|| self.condition(text)),
                headers: self.named(2, names),
                without_headers: if self.below(5) == 0 { self.named(2, names) } else { Vec::new() },
                query_params: if self.below(3) == 0 { self.named(2, names) } else { Vec::new() },
                ..HttpMatch::default()
            }
        }

        fn request(&mut self, names: usize) -> Vec<(String, String)> {
            let mut target = self.path();
            for part in 0..self.below(5) {
                let mark = if part == 0 { '?' } else { '&' };
                target +=
                    &format!("{mark}n{}{}{}", self.below(names), self.of(&["=", "==", ""]), self.text());
            }
            let mut headers = vec![(":path".to_owned(), target), (":method".to_owned(), self.text())];
            headers.extend((0..self.below(6)).map(|_| (format!("n{}", self.below(names)), self.text())));
            headers
        }
    }

    /// The index finds the same first match as trying every entry, whatever the rules: few and many, with few and many
    /// names, repeated headers and parameters.
    #[test]
    fn the_first_match_is_the_first_of_all_entries() {
        let mut dice = Dice(11);
        let sources = Sources::default();
        let (mut matched, mut filed) = (0, 0);
        for round in 0..250 {
            let names = 2 + round % 9;
            let count = dice.below(if round % 10 == 0 { 300 } else { 30 });
            let entries: Vec<Entry> = (0..count)
                .map(|rule| Entry {
                    rule,
                    place: 0,
                    conditions: Rc::new(Conditions::of(&dice.rule(names), None)),
                })
                .collect();
            let table = Table::new(entries);
            filed += usize::from(matches!(table.routes, Routes::Filed(_)));
            for _ in 0..60 {
                let request = dice.request(names);
                let headers = HeaderBlock::from_pairs(request.iter().map(|(name, value)| (name, value)));
                let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
                let found = table.find(&request).unwrap().map(|entry| entry.rule);
                let view = View::new(&request);
                for entry in &table.entries {
                    assert_eq!(
                        crate::explain::miss(entry, &view).is_none(),
                        entry.matches(&view),
                        "{entry:?}"
                    );
                }
                let all = table.entries.iter().find(|entry| entry.matches(&view)).map(|entry| entry.rule);
                assert_eq!(found, all, "{headers:?}\n{:#?}", table.entries);
                matched += usize::from(found.is_some());
            }
        }
        assert!(matched > 3000 && filed > 150, "{matched} {filed}");
    }

    fn candidates(rules: Vec<HttpMatch>, headers: &[(&str, &str)]) -> usize {
        let conditions: Vec<Conditions> = rules.iter().map(|rule| Conditions::of(rule, None)).collect();
        let routes = Routes::of(conditions.iter());
        let headers = HeaderBlock::from_pairs(headers.iter().copied());
        let sources = Sources::default();
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
        routes.candidates(&View::new(&request)).len()
    }

    /// What tells ten thousand rules apart decides how many are tried: the path, a header's value, its name, two of them
    /// together, a parameter, the beginning of a pattern.
    #[test]
    fn few_of_ten_thousand_are_tried() {
        let exact = |text: String| StringMatch::Exact(text);
        let prefix = |text: &str| Some(StringMatch::Prefix(text.to_owned()));
        let of = |rule: &dyn Fn(usize) -> HttpMatch| (0..10_000).map(rule).collect::<Vec<_>>();
        let one = HttpMatch::default;
        for (what, rules, most) in [
            ("paths", of(&|n| HttpMatch { uri: prefix(&format!("/service-{n}/")), ..one() }), 1),
            (
                "patterns",
                of(&|n| {
                    let pattern = Regex::new(&format!("/service-{n}/v[0-9]+/.*")).unwrap();
                    HttpMatch { uri: Some(StringMatch::Regex(Rc::new(pattern))), ..one() }
                }),
                1,
            ),
            (
                "values",
                of(&|n| HttpMatch {
                    uri: prefix("/"),
                    headers: vec![("x-tenant".to_owned(), exact(format!("t{n}")))],
                    ..one()
                }),
                1,
            ),
            (
                "names",
                of(&|n| HttpMatch { headers: vec![(format!("x-{n}"), StringMatch::Present)], ..one() }),
                1,
            ),
            (
                "two together",
                of(&|n| HttpMatch {
                    uri: prefix(&format!("/service-{}/", n % 100)),
                    headers: vec![("x-tenant".to_owned(), exact(format!("t{}", n / 100)))],
                    ..one()
                }),
                1,
            ),
            (
                "parameters",
                of(&|n| HttpMatch { query_params: vec![("id".to_owned(), exact(n.to_string()))], ..one() }),
                1,
            ),
        ] {
            let headers =
                [(":path", "/service-77/v1/x?id=77"), ("x-tenant", "t77"), ("x-77", ""), ("x-77", "a")];
            let tried = candidates(rules, &headers);
            assert!(tried <= most && tried > 0, "{what}: {tried}");
        }
    }

    #[test]
    fn a_name_repeated_all_over_a_request_is_looked_up_once() {
        let rule = |n: usize| HttpMatch {
            query_params: vec![(format!("n{}", n % 10), StringMatch::Present)],
            ..HttpMatch::default()
        };
        let target = format!("/?{}", "n1=&".repeat(10_000));
        assert_eq!(candidates((0..100).map(rule).collect(), &[(":path", &target)]), 10);
    }
}

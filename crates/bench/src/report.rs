//! The figures as Markdown tables and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    measure::{Plan, Samples},
    startup::Start,
    stats::{median, percentile},
    system::Memory,
    variant::{BASE, UPSTREAM_BASE, Variant},
};

/// No module may be larger: Envoy compiles it at start-up, about 1 ms per kB.
pub(crate) const MODULE_LIMIT: u64 = 300_000;

/// A file with a filter in it.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// The filter, or the file's own name.
    pub(crate) name: String,
    /// The variant whose start-up is that of this module.
    pub(crate) variant: String,
    /// Its size.
    pub(crate) bytes: u64,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    /// Processor, cores, kernel.
    pub(crate) machine: String,
    /// Of Envoy.
    pub(crate) envoy: String,
    /// How much was measured.
    pub(crate) plan: Plan,
    /// When, what else ran: free text.
    pub(crate) circumstances: String,
    /// In the order of the tables.
    pub(crate) variants: Vec<Variant>,
    /// Of each variant.
    pub(crate) samples: Vec<Samples>,
    /// Of each variant; empty where not measured.
    pub(crate) starts: Vec<Vec<Start>>,
    /// The modules.
    pub(crate) modules: Vec<Module>,
}

/// A figure: the median over all rounds, and those of each restart, which show how far it can be trusted.
#[derive(Clone, Debug)]
struct Figure {
    all: f64,
    restarts: Vec<f64>,
}

impl Figure {
    /// The median of what `combine` makes of the same rounds of two variants.
    fn of(one: &Samples, other: &Samples, combine: impl Fn(f64, f64) -> f64) -> Self {
        let rounds = |(one, other): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            one.iter().zip(other).map(|(one, other)| combine(*one, *other)).collect()
        };
        let by_restart: Vec<Vec<f64>> = one.cpu.iter().zip(&other.cpu).map(rounds).collect();
        Self {
            all: median(&by_restart.concat()),
            restarts: by_restart.iter().map(|rounds| median(rounds)).collect(),
        }
    }

    fn difference(one: &Samples, other: &Samples) -> Self {
        Self::of(one, other, |one, other| one - other)
    }

    fn ratio(one: &Samples, other: &Samples) -> Self {
        Self::of(one, other, |one, other| one / other)
    }

    fn with_restarts(&self) -> String {
        let restarts: Vec<String> = self.restarts.iter().map(|value| format!("{value:.1}")).collect();
        format!("{:+.1} [{}]", self.all, restarts.join(" "))
    }

    fn json(&self) -> Value {
        json!({"median": self.all, "restarts": self.restarts})
    }
}

impl Report {
    /// The tables of `docs/performance.md`.
    pub(crate) fn markdown(&self) -> String {
        [self.head(), self.beside_native(), self.all_variants(), self.module_table(), self.memory_per_vm()]
            .join("\n")
    }

    fn head(&self) -> String {
        let Plan { restarts, rounds, slice, starts, .. } = self.plan;
        format!(
            "Machine: {}. Envoy {}. {restarts} restarts × {rounds} rounds × {slice} requests per variant; {starts} starts. {}\n",
            self.machine, self.envoy, self.circumstances
        )
    }

    fn samples(&self, name: &str) -> Option<&Samples> {
        let index = self.variants.iter().position(|variant| variant.name == name)?;
        self.samples.get(index)
    }

    /// Ours and native: what each adds, and the two as ratios.
    fn beside_native(&self) -> String {
        let mut text = "### Beside Envoy's own filters\n\n\
            | filter | ours adds, µs | native adds, µs | ours ÷ native | ours − native, µs | whole Envoy, ours ÷ native |\n\
            | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        for (variant, ours) in self.variants.iter().zip(&self.samples) {
            let Some(native) = variant.native.as_deref().and_then(|native| self.samples(native)) else {
                continue;
            };
            let Some(base) = self.samples(variant.base()) else { continue };
            let (ours_adds, native_adds) = (Figure::difference(ours, base), Figure::difference(native, base));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {:.2} |",
                variant.what,
                ours_adds.with_restarts(),
                native_adds.with_restarts(),
                added_ratio(&ours_adds, &native_adds),
                Figure::difference(ours, native).with_restarts(),
                Figure::ratio(ours, native).all,
            );
        }
        text
    }

    fn all_variants(&self) -> String {
        let mut text = "### All variants\n\n\
            | variant | Envoy | CPU µs/request p10/median/p90 | adds to its base, µs | ÷ base | ÷ empty filter | RSS MiB (private dirty) |\n\
            | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        for (variant, samples) in self.variants.iter().zip(&self.samples) {
            let (Some(base), Some(empty)) = (self.samples(variant.base()), self.samples(variant.empty()))
            else {
                continue;
            };
            let cpu = samples.cpu.concat();
            let is_base = [BASE, UPSTREAM_BASE].contains(&variant.name.as_str());
            let adds =
                if is_base { "0".to_owned() } else { Figure::difference(samples, base).with_restarts() };
            let (resident, dirty) = memory(samples);
            let _ = writeln!(
                text,
                "| `{}` | {} | {:.1}/{:.1}/{:.1} | {adds} | {:.2} | {:.2} | {resident:.1} ({dirty:.1}) |",
                variant.name,
                variant.what,
                percentile(&cpu, 0.1),
                median(&cpu),
                percentile(&cpu, 0.9),
                Figure::ratio(samples, base).all,
                Figure::ratio(samples, empty).all,
            );
        }
        text
    }

    fn module_table(&self) -> String {
        let mut text = format!(
            "### Modules and start-up\n\nNo module may be larger than {MODULE_LIMIT} bytes.\n\n\
             | module or Envoy | bytes | exec to first answer, ms min/median/max | CPU by then, ms |\n| --- | --- | --- | --- |\n"
        );
        for module in &self.modules {
            let over = if module.bytes > MODULE_LIMIT { " (over the limit)" } else { "" };
            let starts = self.start_columns(&module.variant);
            let _ = writeln!(text, "| `{}` | {}{over} | {starts} |", module.name, module.bytes);
        }
        for (variant, starts) in self.variants.iter().zip(&self.starts) {
            let is_module = self.modules.iter().any(|module| module.variant == variant.name);
            if !starts.is_empty() && !is_module {
                let _ = writeln!(text, "| {} | | {} |", variant.what, self.start_columns(&variant.name));
            }
        }
        text
    }

    fn start_columns(&self, variant: &str) -> String {
        let index = self.variants.iter().position(|other| other.name == variant);
        let starts = index.and_then(|index| self.starts.get(index)).filter(|starts| !starts.is_empty());
        let Some(starts) = starts else { return "– | –".to_owned() };
        let wall: Vec<f64> = starts.iter().map(|start| start.wall).collect();
        let cpu: Vec<f64> = starts.iter().map(|start| start.cpu).collect();
        let range = [percentile(&wall, 0.0), median(&wall), percentile(&wall, 1.0)];
        let [least, middle, most] = range;
        format!("{least:.0}/{middle:.0}/{most:.0} | {:.0}", median(&cpu))
    }

    fn memory_per_vm(&self) -> String {
        let mut text =
            "### Memory of a VM\n\n| | RSS MiB | private dirty MiB |\n| --- | --- | --- |\n".to_owned();
        let rows = [
            ("V8 and the first VM (empty filter)", "empty", BASE, 1.0),
            ("each further VM of the same module, one worker", "empty-x5-five-vms", "empty-x5-one-vm", 4.0),
            ("V8 and the five filters", "chain-cached", UPSTREAM_BASE, 1.0),
            ("10,000 routes more than 10, one worker: routing", "routes-10000", "routes-10", 1.0),
            ("the same: native route list", "native-list-10000", "native-list-10", 1.0),
            ("the same: native matcher tree", "native-tree-10000", "native-tree-10", 1.0),
        ];
        for (what, more, less, count) in rows {
            let (Some(more), Some(less)) = (self.samples(more), self.samples(less)) else { continue };
            let ((resident, dirty), (resident_less, dirty_less)) = (memory(more), memory(less));
            let _ = writeln!(
                text,
                "| {what} | {:+.1} | {:+.1} |",
                (resident - resident_less) / count,
                (dirty - dirty_less) / count
            );
        }
        text
    }

    /// Everything, with all samples.
    pub(crate) fn json(&self) -> Value {
        let variants: Vec<Value> = self
            .variants
            .iter()
            .zip(self.samples.iter().zip(&self.starts))
            .map(|(variant, (samples, starts))| self.variant_json(variant, samples, starts))
            .collect();
        let modules: Vec<Value> =
            self.modules.iter().map(|module| json!({"name": module.name, "bytes": module.bytes})).collect();
        let Plan { restarts, rounds, slice, starts, .. } = self.plan;
        json!({
            "machine": self.machine,
            "envoy": self.envoy,
            "circumstances": self.circumstances,
            "plan": {"restarts": restarts, "rounds": rounds, "slice": slice, "starts": starts},
            "modules": modules,
            "variants": variants,
        })
    }

    fn variant_json(&self, variant: &Variant, samples: &Samples, starts: &[Start]) -> Value {
        let against = |name: &str| {
            self.samples(name).map(|other| {
                json!({
                    "name": name,
                    "difference_us": Figure::difference(samples, other).json(),
                    "ratio": Figure::ratio(samples, other).json(),
                })
            })
        };
        let (resident, dirty) = memory(samples);
        json!({
            "name": variant.name,
            "what": variant.what,
            "cpu_us": samples.cpu,
            "base": against(variant.base()),
            "empty": against(variant.empty()),
            "native": variant.native.as_deref().and_then(against),
            "rss_mib": resident,
            "private_dirty_mib": dirty,
            "starts_ms": starts.iter().map(|start| json!({"wall": start.wall, "cpu": start.cpu})).collect::<Vec<_>>(),
        })
    }
}

/// A ratio of two additions says nothing when the lower one is within the noise.
fn added_ratio(ours: &Figure, native: &Figure) -> String {
    if native.all < 1.0 { "–".to_owned() } else { format!("{:.2}", ours.all / native.all) }
}

/// Resident and private dirty MiB, medians of the restarts.
fn memory(samples: &Samples) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 KiB")]
    let mib = |kib: u64| kib as f64 / 1024.0;
    let of = |field: fn(&Memory) -> u64| -> f64 {
        median(&samples.memory.iter().map(|memory| mib(field(memory))).collect::<Vec<_>>())
    };
    (of(|memory| memory.resident_kib), of(|memory| memory.private_dirty_kib))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::variant::{Catalog, select};

    fn report() -> Report {
        let (modules, empty) = (Path::new("dist"), Path::new("e.wasm"));
        let catalog = Catalog { modules, empty, jwks: "{}", route_counts: &[] };
        let variants = select(catalog.variants(), &["authz".to_owned()]);
        let samples = variants.iter().map(|variant| {
            let cpu = match variant.name.as_str() {
                "base" => [50.0, 100.0],
                "empty" => [58.0, 108.0],
                name if name.starts_with("native") => [60.0, 110.0],
                _ => [65.0, 115.0],
            };
            let memory = vec![Memory { resident_kib: 2048, private_dirty_kib: 1024 }; 2];
            Samples { cpu: cpu.iter().map(|&cpu| vec![cpu; 3]).collect(), memory }
        });
        Report {
            machine: "a machine".to_owned(),
            envoy: "1.40.0".to_owned(),
            plan: Plan { restarts: 2, rounds: 3, slice: 300, warm_up: 1, starts: 1 },
            circumstances: String::new(),
            samples: samples.collect(),
            starts: variants.iter().map(|_| vec![Start { wall: 100.0, cpu: 90.0 }]).collect(),
            modules: vec![Module { name: "authz".to_owned(), variant: "authz".to_owned(), bytes: 300_001 }],
            variants,
        }
    }

    #[test]
    fn differences_are_taken_within_rounds() {
        // The second restart ran on a machine half as fast; what the filters add is the same.
        let text = report().markdown();
        assert!(text.contains("| +15.0 [15.0 15.0] | +10.0 [10.0 10.0] | 1.50 | +5.0 [5.0 5.0] |"), "{text}");
    }

    #[test]
    fn a_module_over_the_limit_is_named() {
        let text = report().markdown();
        assert!(text.contains("| `authz` | 300001 (over the limit) | 100/100/100 | 90 |"), "{text}");
    }

    #[test]
    fn json_carries_the_samples_and_the_figures() {
        let json = report().json();
        let authz = json["variants"].as_array().unwrap().iter().find(|v| v["name"] == "authz").unwrap();
        assert_eq!(authz["native"]["difference_us"]["median"], 5.0);
        assert_eq!(authz["cpu_us"][1][2], 115.0);
    }
}

//! A filter that does nothing: the price of Envoy's Wasm host itself, which every other filter pays too.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_host::{Action, Http, Plugin};

struct EmptyFilter;

impl Plugin for EmptyFilter {
    /// Only a label of what the host layer logs and counts; there is no kind of its own for a filter without a job.
    const FILTER: Filter = Filter::Metrics;
    type Stream = ();

    fn configure(_: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Ok((Self, Vec::new()))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    fn request_headers(&mut self, (): &mut (), _: Http) -> Action {
        Action::Continue
    }
}

sailcloth_host::export!(EmptyFilter: request_headers);

//! One HTTP stream through a chain of plugins.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::{Callback, to_u32};
use crate::headers::HeaderMap;
use crate::plugin::Plugin;
use crate::process::Process;
use crate::property::http_to_grpc;
use crate::value::Value;
use crate::vm::{StreamContext, Trap, Visible, VmInner};

/// How far a stream got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything given so far has passed all plugins.
    Continue,
    /// The plugin at this place of the chain holds it.
    Paused(usize),
    /// A plugin, or the host in place of a dead one, has answered: see [`Stream::local_reply`].
    LocalReply,
    /// A plugin closed the stream, or replied after the response had begun.
    Reset,
}

/// A response that a plugin sent itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status as the module gave it (a gRPC client sees 200 and `grpc_status`).
    pub status: u32,
    /// Response code details, white space replaced by `_`.
    pub details: String,
    /// The body.
    pub body: Vec<u8>,
    /// The headers that the module added.
    pub headers: HeaderMap,
    /// `None` when the module gave -1.
    pub grpc_status: Option<u32>,
    /// Name of the plugin.
    pub plugin: String,
}

/// What a hostcall leaves to be done once the callback has returned.
pub(crate) enum Pending {
    Continue(usize, Direction),
    Reply(LocalReply),
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

struct FilterState {
    value: Vec<u8>,
    read_only: bool,
}

/// What all plugins of a stream share.
pub(crate) struct StreamState {
    pub(crate) request_headers: HeaderMap,
    pub(crate) request_trailers: Option<HeaderMap>,
    pub(crate) response_headers: Option<HeaderMap>,
    pub(crate) response_trailers: Option<HeaderMap>,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) attributes: Value,
    filter_state: BTreeMap<Vec<u8>, FilterState>,
    pub(crate) route_clears: u32,
    pub(crate) pending: VecDeque<Pending>,
    replies: Vec<LocalReply>,
    process: Process,
    pub(crate) start_ns: u64,
    /// The last byte has gone: its duration is known.
    pub(crate) complete: bool,
    start_monotonic_ns: u64,
}

impl StreamState {
    pub(crate) fn filter_state_of(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.filter_state.get(key).map(|state| state.value.clone())
    }

    #[cfg(feature = "cel")]
    pub(crate) fn all_filter_state(&self) -> Vec<(String, crate::Value)> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let value = |state: &FilterState| crate::Value::Bytes(state.value.clone());
        self.filter_state.iter().map(|(key, state)| (text(key), value(state))).collect()
    }

    /// False when the key is declared write-once and was written.
    pub(crate) fn set_filter_state(&mut self, key: &[u8], value: &[u8], read_only: bool) -> bool {
        if self.filter_state.get(key).is_some_and(|state| state.read_only) {
            return false;
        }
        self.filter_state.insert(key.to_vec(), FilterState { value: value.to_vec(), read_only });
        true
    }

    pub(crate) fn elapsed_ns(&self) -> i64 {
        let elapsed = self.process.monotonic_ns().saturating_sub(self.start_monotonic_ns);
        i64::try_from(elapsed).unwrap_or(i64::MAX)
    }

    pub(crate) fn code_details(&self) -> String {
        self.replies.last().map_or_else(|| "via_upstream".to_owned(), |reply| reply.details.clone())
    }

    fn is_grpc(&self) -> bool {
        let kind = self.request_headers.get("content-type").unwrap_or_default();
        kind == b"application/grpc"
            || kind.starts_with(b"application/grpc+")
            || kind.starts_with(b"application/grpc;")
    }
}

/// A part of a message on its way through the chain.
enum Event {
    Headers { end: bool },
    Data { bytes: Vec<u8>, end: bool },
    Trailers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nothing more reaches the plugin until it continues.
    All,
    /// The body still does.
    Single,
}

/// What one plugin holds back in one direction.
#[derive(Default)]
struct Lane {
    inbox: VecDeque<Event>,
    headers: Option<(Stop, bool)>,
    /// Body held back, and whether its end was seen.
    held: Option<(Vec<u8>, bool)>,
    /// The module sees what it holds together with the next chunk.
    buffering: bool,
    trailers: bool,
}

impl Lane {
    fn is_blocked(&self) -> bool {
        self.trailers || matches!(self.headers, Some((Stop::All, _)))
    }

    fn holds(&self) -> bool {
        self.trailers || self.headers.is_some() || self.held.is_some()
    }
}

struct Filter {
    plugin: Plugin,
    context: Option<u32>,
    started: bool,
    /// A dead VM has already been answered for.
    failed: bool,
    request: Lane,
    response: Lane,
}

impl Filter {
    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }
}

/// One HTTP stream: give it the parts of a request, then of a response; ask what came out.
///
/// Plugins see requests in the order of the chain and responses in reverse. [`Stream::finish`] frees what it holds.
pub struct Stream {
    state: Arc<Mutex<StreamState>>,
    filters: Vec<Filter>,
    request_body: Vec<u8>,
    response_body: Vec<u8>,
    request_passed: bool,
    response_passed: bool,
    reset: bool,
    logged: bool,
}

impl Stream {
    /// A stream with those request headers (pseudo-headers included) that will go through `chain`. The attributes of a
    /// plaintext HTTP/1.1 connection from 127.0.0.1:50000 to 127.0.0.1:10000 are set; change them with
    /// [`Stream::set_attribute`].
    #[must_use]
    pub fn new(process: &Process, chain: &[&Plugin], headers: impl Into<HeaderMap>) -> Self {
        let state = StreamState {
            request_headers: headers.into(),
            request_trailers: None,
            response_headers: None,
            response_trailers: None,
            request_bytes: 0,
            response_bytes: 0,
            attributes: default_attributes(),
            filter_state: BTreeMap::new(),
            route_clears: 0,
            pending: VecDeque::new(),
            replies: Vec::new(),
            process: process.clone(),
            start_ns: process.now_ns(),
            complete: false,
            start_monotonic_ns: process.monotonic_ns(),
        };
        let filter = |plugin: &&Plugin| Filter {
            plugin: (*plugin).clone(),
            context: None,
            started: false,
            failed: false,
            request: Lane::default(),
            response: Lane::default(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            filters: chain.iter().map(filter).collect(),
            request_body: Vec::new(),
            response_body: Vec::new(),
            request_passed: false,
            response_passed: false,
            reset: false,
            logged: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an attribute by its path: `["source", "address"]`, `["connection", "uri_san_peer_certificate"]`,
    /// `["metadata", "filter_metadata", "ns", "key"]`. It wins over the value that the emulator derives.
    pub fn set_attribute(&self, path: &[&str], value: impl Into<Value>) {
        self.lock().attributes.set_path(path, value.into());
    }

    /// Writes filter state under its full key (`wasm.name`, `sailcloth.source_ip`), as another filter would.
    pub fn set_filter_state(&self, key: &str, value: impl AsRef<[u8]>) {
        self.lock().set_filter_state(key.as_bytes(), value.as_ref(), false);
    }

    /// Reads filter state by its full key. What a plugin writes by `proxy_set_property(name)` is `wasm.<name>`.
    #[must_use]
    pub fn filter_state(&self, key: &str) -> Option<Vec<u8>> {
        self.lock().filter_state_of(key.as_bytes())
    }

    /// Sends the request headers through the chain. Call it once.
    pub fn request_headers(&mut self, end_of_stream: bool) -> Progress {
        self.feed(Direction::Request, Event::Headers { end: end_of_stream })
    }

    /// Sends a part of the request body.
    pub fn request_body(&mut self, chunk: impl AsRef<[u8]>, end_of_stream: bool) -> Progress {
        let bytes = chunk.as_ref().to_vec();
        self.lock().request_bytes += bytes.len();
        self.feed(Direction::Request, Event::Data { bytes, end: end_of_stream })
    }

    /// Sends the request trailers.
    pub fn request_trailers(&mut self, trailers: impl Into<HeaderMap>) -> Progress {
        self.lock().request_trailers = Some(trailers.into());
        self.feed(Direction::Request, Event::Trailers)
    }

    /// Sends the upstream's response headers (with `:status`) through the chain, last plugin first.
    pub fn response_headers(&mut self, headers: impl Into<HeaderMap>, end_of_stream: bool) -> Progress {
        self.lock().response_headers = Some(headers.into());
        self.feed(Direction::Response, Event::Headers { end: end_of_stream })
    }

    /// Sends a part of the response body.
    pub fn response_body(&mut self, chunk: impl AsRef<[u8]>, end_of_stream: bool) -> Progress {
        let bytes = chunk.as_ref().to_vec();
        self.lock().response_bytes += bytes.len();
        self.feed(Direction::Response, Event::Data { bytes, end: end_of_stream })
    }

    /// Sends the response trailers.
    pub fn response_trailers(&mut self, trailers: impl Into<HeaderMap>) -> Progress {
        self.lock().response_trailers = Some(trailers.into());
        self.feed(Direction::Response, Event::Trailers)
    }

    /// Goes on after something outside the stream (a callout's answer, a tick) may have resumed or answered it.
    pub fn proceed(&mut self) -> Progress {
        self.pump();
        self.progress()
    }

    /// The local reply that the client gets; the last one when there were several.
    #[must_use]
    pub fn local_reply(&self) -> Option<LocalReply> {
        self.lock().replies.last().cloned()
    }

    /// Every local reply that was sent: more than one is a mistake of the plugins.
    #[must_use]
    pub fn local_replies(&self) -> Vec<LocalReply> {
        self.lock().replies.clone()
    }

    /// How often the route cache was cleared: by each change of a request header and by `clear_route_cache`.
    #[must_use]
    pub fn route_cache_clears(&self) -> u32 {
        self.lock().route_clears
    }

    /// The request headers as they are now.
    #[must_use]
    pub fn current_request_headers(&self) -> HeaderMap {
        self.lock().request_headers.clone()
    }

    /// The response headers as they are now; those of a local reply include what the host adds.
    #[must_use]
    pub fn current_response_headers(&self) -> Option<HeaderMap> {
        self.lock().response_headers.clone()
    }

    /// Whether the request headers have passed all plugins, towards the upstream.
    #[must_use]
    pub fn reached_upstream(&self) -> bool {
        self.request_passed
    }

    /// The request body that has passed all plugins.
    #[must_use]
    pub fn upstream_body(&self) -> &[u8] {
        &self.request_body
    }

    /// The response body that has passed all plugins.
    #[must_use]
    pub fn downstream_body(&self) -> &[u8] {
        &self.response_body
    }

    /// Number of the plugin's stream context in its VM; `None` while there is none.
    #[must_use]
    pub fn context(&self, place: usize) -> Option<u32> {
        self.filters.get(place)?.context
    }

    /// Runs `proxy_on_log` of every plugin, in the order of the chain. A plugin that never saw the request gets a fresh
    /// context first; a dead or bypassed one gets nothing. Envoy logs a stream twice after an internal redirect: so may a
    /// test.
    ///
    /// # Errors
    /// The first trap; the other plugins are still called.
    pub fn log(&mut self) -> Result<(), Trap> {
        self.logged = true;
        self.lock().complete = true;
        let mut result = Ok(());
        for index in 0..self.filters.len() {
            result = result.and(self.log_one(index));
        }
        result
    }

    fn log_one(&mut self, index: usize) -> Result<(), Trap> {
        let Some(plugin) = self.filters.get(index).map(|filter| filter.plugin.clone()) else {
            return Ok(());
        };
        let mut vm = plugin.vm.lock();
        if vm.failed.is_some() {
            return Ok(());
        }
        let context = self.context_of(index, &mut vm)?;
        set_visible(&mut vm, context, |visible| visible.logging = true);
        let result = vm.call::<u32, ()>(context, Callback::OnLog, context);
        set_visible(&mut vm, context, |visible| visible.logging = false);
        result.map(|_| ())
    }

    /// Ends the stream: [`Stream::log`] if that was not called, then `proxy_on_done` and `proxy_on_delete` of every
    /// plugin.
    ///
    /// # Errors
    /// The first trap; the other plugins are still called.
    pub fn finish(mut self) -> Result<(), Trap> {
        let mut result = if self.logged { Ok(()) } else { self.log() };
        for filter in &mut self.filters {
            let Some(context) = filter.context.take() else { continue };
            let mut vm = filter.plugin.vm.lock();
            if vm.failed.is_some() {
                vm.store.data_mut().contexts.remove(&context);
                continue;
            }
            let done = vm.call::<u32, u32>(context, Callback::OnDone, context).map(|_| ());
            let deleted = vm.delete(context);
            result = result.and(done).and(deleted);
        }
        result
    }

    fn progress(&self) -> Progress {
        let holds = |filter: &Filter| filter.request.holds() || filter.response.holds();
        if self.reset {
            Progress::Reset
        } else if !self.lock().replies.is_empty() {
            Progress::LocalReply
        } else {
            self.filters.iter().position(holds).map_or(Progress::Continue, Progress::Paused)
        }
    }

    fn feed(&mut self, direction: Direction, event: Event) -> Progress {
        let over = self.reset || (direction == Direction::Request && !self.lock().replies.is_empty());
        if !over {
            self.forward(None, direction, event);
            self.pump();
        }
        self.progress()
    }

    /// Hands an event to the plugin after `from`, or out of the chain.
    fn forward(&mut self, from: Option<usize>, direction: Direction, event: Event) {
        let next = match (direction, from) {
            (Direction::Request, None) => Some(0),
            (Direction::Request, Some(index)) => index.checked_add(1),
            (Direction::Response, None) => self.filters.len().checked_sub(1),
            (Direction::Response, Some(index)) => index.checked_sub(1),
        };
        if let Some(filter) = next.and_then(|index| self.filters.get_mut(index)) {
            filter.lane(direction).inbox.push_back(event);
            return;
        }
        let (passed, body) = match direction {
            Direction::Request => (&mut self.request_passed, &mut self.request_body),
            Direction::Response => (&mut self.response_passed, &mut self.response_body),
        };
        match event {
            Event::Headers { .. } => *passed = true,
            Event::Data { bytes, .. } => body.extend(bytes),
            Event::Trailers => {}
        }
    }

    /// Runs until nothing can move.
    fn pump(&mut self) {
        loop {
            self.settle();
            let Some((index, direction, event)) = self.next_event() else { return };
            self.deliver(index, direction, event);
        }
    }

    fn next_event(&mut self) -> Option<(usize, Direction, Event)> {
        for (index, filter) in self.filters.iter_mut().enumerate() {
            for direction in [Direction::Request, Direction::Response] {
                let lane = filter.lane(direction);
                if !lane.is_blocked()
                    && let Some(event) = lane.inbox.pop_front()
                {
                    return Some((index, direction, event));
                }
            }
        }
        None
    }

    /// Does what hostcalls left to be done after the callback.
    fn settle(&mut self) {
        loop {
            let pending = self.lock().pending.pop_front();
            match pending {
                None => return,
                Some(Pending::Continue(index, direction)) => self.resume(index, direction),
                Some(Pending::Reply(reply)) => self.reply(reply),
                Some(Pending::Close) => self.abort(),
            }
        }
    }

    fn abort(&mut self) {
        self.reset = true;
        for filter in &mut self.filters {
            filter.request = Lane::default();
            filter.response = Lane::default();
        }
    }

    fn resume(&mut self, index: usize, direction: Direction) {
        let Some(filter) = self.filters.get_mut(index) else { return };
        let lane = filter.lane(direction);
        let headers = lane.headers.take();
        let held = lane.held.take();
        let trailers = std::mem::take(&mut lane.trailers);
        lane.buffering = false;
        if let Some((_, end)) = headers {
            self.forward(Some(index), direction, Event::Headers { end });
        }
        if let Some((bytes, end)) = held {
            self.forward(Some(index), direction, Event::Data { bytes, end });
        }
        if trailers {
            self.forward(Some(index), direction, Event::Trailers);
        }
    }

    fn reply(&mut self, reply: LocalReply) {
        if self.response_passed {
            self.abort();
            return;
        }
        let (headers, body) = self.reply_message(&reply);
        let mut state = self.lock();
        // Once a response is on its way back, a reply goes out directly, past the plugins.
        let direct = state.response_headers.is_some();
        state.response_headers = Some(headers);
        state.response_trailers = None;
        state.response_bytes = body.len();
        state.replies.push(reply);
        drop(state);
        for filter in &mut self.filters {
            filter.request = Lane::default();
            filter.response = Lane::default();
        }
        if direct {
            self.response_passed = true;
            self.response_body = body;
            return;
        }
        let end = body.is_empty();
        self.forward(None, Direction::Response, Event::Headers { end });
        if !end {
            self.forward(None, Direction::Response, Event::Data { bytes: body, end: true });
        }
    }

    /// What the client gets for a local reply.
    fn reply_message(&self, reply: &LocalReply) -> (HeaderMap, Vec<u8>) {
        let mut headers = HeaderMap::from([(":status", reply.status.to_string())]);
        for (name, value) in reply.headers.pairs() {
            headers.add(name, value);
        }
        if self.lock().is_grpc() {
            let grpc = reply.grpc_status.unwrap_or_else(|| http_to_grpc(reply.status));
            headers.replace(":status", "200");
            headers.replace("content-type", "application/grpc");
            headers.replace("grpc-status", grpc.to_string());
            if !reply.body.is_empty() {
                headers.replace("grpc-message", &reply.body);
            }
            headers.remove("content-length");
            return (headers, Vec::new());
        }
        if !reply.body.is_empty() {
            headers.replace("content-length", reply.body.len().to_string());
            if headers.get("content-type").is_none() {
                headers.add("content-type", "text/plain");
            }
        }
        (headers, reply.body.clone())
    }

    /// The plugin's stream context, created if there is none.
    fn context_of(&mut self, index: usize, vm: &mut VmInner) -> Result<u32, Trap> {
        let Some(filter) = self.filters.get_mut(index) else {
            return Err(Trap::Failed("no such plugin in the chain".to_owned()));
        };
        if let Some(context) = filter.context {
            return Ok(context);
        }
        let context = vm.create_stream(StreamContext {
            root: filter.plugin.root,
            plugin: Arc::clone(&filter.plugin.info),
            filter: index,
            shared: Arc::clone(&self.state),
            visible: Visible::default(),
        })?;
        filter.context = Some(context);
        Ok(context)
    }

    fn deliver(&mut self, index: usize, direction: Direction, event: Event) {
        let Some(filter) = self.filters.get_mut(index) else { return };
        let plugin = filter.plugin.clone();
        let starts = direction == Direction::Request && matches!(event, Event::Headers { .. });
        let mut vm = plugin.vm.lock();
        if starts {
            // FAIL_OPEN: a stream that begins on a dead VM passes it by.
            filter.started = !(vm.failed.is_some() && plugin.info.fail_open);
        }
        if !filter.started {
            drop(vm);
            return self.forward(Some(index), direction, event);
        }
        if vm.failed.is_some() {
            drop(vm);
            return self.fail_stream(index, direction, event);
        }
        let result = self.run(index, &mut vm, direction, event);
        drop(vm);
        if result.is_err() {
            self.fail_stream(index, direction, Event::Headers { end: true });
        }
    }

    /// What Envoy does for a plugin whose VM is dead: 503, once per stream and plugin.
    fn fail_stream(&mut self, index: usize, direction: Direction, event: Event) {
        let Some(filter) = self.filters.get_mut(index) else { return };
        if filter.failed {
            if direction == Direction::Response {
                self.forward(Some(index), direction, event);
            }
            return;
        }
        filter.failed = true;
        let reply = LocalReply {
            status: 503,
            details: "wasm_fail_stream".to_owned(),
            body: Vec::new(),
            headers: HeaderMap::new(),
            grpc_status: Some(14),
            plugin: filter.plugin.info.name.clone(),
        };
        self.lock().pending.push_back(Pending::Reply(reply));
    }

    fn run(
        &mut self,
        index: usize,
        vm: &mut VmInner,
        direction: Direction,
        event: Event,
    ) -> Result<(), Trap> {
        let context = self.context_of(index, vm)?;
        match event {
            Event::Headers { end } => self.run_headers(index, vm, context, direction, end),
            Event::Data { bytes, end } => self.run_data(index, vm, context, direction, bytes, end),
            Event::Trailers => self.run_trailers(index, vm, context, direction),
        }
    }

    fn run_headers(
        &mut self,
        index: usize,
        vm: &mut VmInner,
        context: u32,
        direction: Direction,
        end: bool,
    ) -> Result<(), Trap> {
        let (callback, count) = match direction {
            Direction::Request => (Callback::OnRequestHeaders, self.lock().request_headers.len()),
            Direction::Response => {
                let count = self.lock().response_headers.as_ref().map_or(0, HeaderMap::len);
                (Callback::OnResponseHeaders, count)
            }
        };
        set_headers_visible(vm, context, direction, true);
        let params = (context, to_u32(count), u32::from(end));
        let action = vm.call::<(u32, u32, u32), u32>(context, callback, params)?.unwrap_or(0);
        let stop = match (vm.take_stop(), action) {
            (true, _) => Some(Stop::All),
            // 2 was "continue and end the stream", which Envoy no longer has.
            (false, 0 | 2) => None,
            (false, 1) if self.filters.get(index).is_some_and(|f| f.plugin.info.single_stop) => {
                Some(Stop::Single)
            }
            (false, _) => Some(Stop::All),
        };
        if let Some(stop) = stop {
            if let Some(filter) = self.filters.get_mut(index) {
                filter.lane(direction).headers = Some((stop, end));
            }
        } else {
            set_headers_visible(vm, context, direction, false);
            self.forward(Some(index), direction, Event::Headers { end });
        }
        Ok(())
    }

    fn run_data(
        &mut self,
        index: usize,
        vm: &mut VmInner,
        context: u32,
        direction: Direction,
        bytes: Vec<u8>,
        end: bool,
    ) -> Result<(), Trap> {
        let Some(filter) = self.filters.get_mut(index) else { return Ok(()) };
        let lane = filter.lane(direction);
        let (mut before, _) = lane.held.take().unwrap_or_default();
        let mut view = if lane.buffering { std::mem::take(&mut before) } else { Vec::new() };
        lane.buffering = false;
        view.extend(bytes);
        let callback = match direction {
            Direction::Request => Callback::OnRequestBody,
            Direction::Response => Callback::OnResponseBody,
        };
        let params = (context, to_u32(view.len()), u32::from(end));
        set_body(vm, context, direction, Some(view.clone()));
        let action = vm.call::<(u32, u32, u32), u32>(context, callback, params)?.unwrap_or(0);
        let stopped = vm.take_stop();
        // The module may have resumed inside the callback, which releases the buffer.
        let view = set_body(vm, context, direction, None).unwrap_or(view);
        match (stopped, action) {
            (false, 0) => {
                lane.held = Some(([before, view].concat(), end));
                set_headers_visible(vm, context, direction, false);
                self.resume(index, direction);
            }
            (false, 1) => {
                lane.held = Some((view, end));
                lane.buffering = true;
            }
            (false, 2) => lane.held = Some(([before, view].concat(), end)),
            _ => lane.held = Some((before, end)),
        }
        Ok(())
    }

    fn run_trailers(
        &mut self,
        index: usize,
        vm: &mut VmInner,
        context: u32,
        direction: Direction,
    ) -> Result<(), Trap> {
        let (callback, count) = match direction {
            Direction::Request => (Callback::OnRequestTrailers, self.lock().request_trailers.clone()),
            Direction::Response => (Callback::OnResponseTrailers, self.lock().response_trailers.clone()),
        };
        let count = to_u32(count.unwrap_or_default().len());
        set_trailers_visible(vm, context, direction, true);
        let action = vm.call::<(u32, u32), u32>(context, callback, (context, count))?.unwrap_or(0);
        let stopped = vm.take_stop() || action != 0;
        let Some(filter) = self.filters.get_mut(index) else { return Ok(()) };
        filter.lane(direction).trailers = true;
        if !stopped {
            set_trailers_visible(vm, context, direction, false);
            self.resume(index, direction);
        }
        Ok(())
    }
}

fn set_visible(vm: &mut VmInner, context: u32, f: impl FnOnce(&mut Visible)) {
    if let Some(stream) = vm.store.data_mut().stream_of(context) {
        f(&mut stream.visible);
    }
}

fn set_headers_visible(vm: &mut VmInner, context: u32, direction: Direction, visible: bool) {
    set_visible(vm, context, |v| match direction {
        Direction::Request => v.request_headers = visible,
        Direction::Response => v.response_headers = visible,
    });
}

fn set_trailers_visible(vm: &mut VmInner, context: u32, direction: Direction, visible: bool) {
    set_visible(vm, context, |v| match direction {
        Direction::Request => v.request_trailers = visible,
        Direction::Response => v.response_trailers = visible,
    });
}

/// Shows a body to the module, or takes it back; the former one is returned.
fn set_body(vm: &mut VmInner, context: u32, direction: Direction, body: Option<Vec<u8>>) -> Option<Vec<u8>> {
    let stream = vm.store.data_mut().stream_of(context)?;
    let place = match direction {
        Direction::Request => &mut stream.visible.request_body,
        Direction::Response => &mut stream.visible.response_body,
    };
    std::mem::replace(place, body)
}

fn default_attributes() -> Value {
    let mut attributes = Value::Map(Vec::new());
    let mut set = |group: &str, name: &str, value: Value| attributes.set_path(&[group, name], value);
    set("source", "address", "127.0.0.1:50000".into());
    set("source", "port", Value::Int(50_000));
    set("destination", "address", "127.0.0.1:10000".into());
    set("destination", "port", Value::Int(10_000));
    set("connection", "id", Value::Uint(1));
    set("connection", "mtls", Value::Bool(false));
    set("connection", "requested_server_name", "".into());
    set("request", "protocol", "HTTP/1.1".into());
    set("upstream", "request_attempt_count", Value::Uint(0));
    set("xds", "listener_direction", Value::Int(1));
    attributes.set_path(&["connection_id"], Value::Uint(1));
    attributes
}

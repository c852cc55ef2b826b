//! The numbers and names of proxy-wasm ABI 0.2.1 and of the WASI functions that Envoy 1.36 links.

use std::fmt;

/// What a hostcall answers (`WasmResult` in Envoy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// No such key, header, property, metric or function.
    NotFound = 1,
    /// Wrong phase, unknown cluster, value out of range.
    BadArgument = 2,
    /// The value has no byte form.
    SerializationFailure = 3,
    /// The bytes could not be parsed.
    ParseFailure = 4,
    /// Not used by Envoy's HTTP host.
    BadExpression = 5,
    /// A pointer outside the module's memory, or its allocator failed.
    InvalidMemoryAccess = 6,
    /// An empty queue.
    Empty = 7,
    /// The compare-and-swap number is not the current one.
    CasMismatch = 8,
    /// Not used by Envoy's HTTP host.
    ResultMismatch = 9,
    /// No endpoints, denied capability, evaluation error.
    InternalFailure = 10,
    /// What `proxy_get_status` says after a callout was reset.
    BrokenConnection = 11,
    /// Not built into this host.
    Unimplemented = 12,
}

/// Level of a log line, in the numbers of `proxy_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Trace = 0,
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
    Critical = 5,
}

impl Level {
    pub(crate) fn from_abi(level: u32) -> Option<Self> {
        [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Critical]
            .into_iter()
            .find(|candidate| *candidate as u32 == level)
    }
}

/// `WasmHeaderMapType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapType {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
    GrpcInitialMetadata,
    GrpcTrailingMetadata,
    CallResponseHeaders,
    CallResponseTrailers,
}

impl MapType {
    pub(crate) fn from_abi(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::RequestHeaders,
            1 => Self::RequestTrailers,
            2 => Self::ResponseHeaders,
            3 => Self::ResponseTrailers,
            4 => Self::GrpcInitialMetadata,
            5 => Self::GrpcTrailingMetadata,
            6 => Self::CallResponseHeaders,
            7 => Self::CallResponseTrailers,
            _ => return Err(Status::BadArgument),
        })
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each variant is the name of the import or export in camel case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name as it stands in a module's import or export section.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// A function that a module may import: `env` of ABI 0.2.1, then Envoy 1.36's allow-list of WASI (`Wasi…`).
    Hostcall {
        Log = "proxy_log",
        GetLogLevel = "proxy_get_log_level",
        GetStatus = "proxy_get_status",
        GetCurrentTime = "proxy_get_current_time_nanoseconds",
        SetTickPeriod = "proxy_set_tick_period_milliseconds",
        SetEffectiveContext = "proxy_set_effective_context",
        Done = "proxy_done",
        ContinueStream = "proxy_continue_stream",
        CloseStream = "proxy_close_stream",
        SendLocalResponse = "proxy_send_local_response",
        GetProperty = "proxy_get_property",
        SetProperty = "proxy_set_property",
        GetHeaderMapValue = "proxy_get_header_map_value",
        AddHeaderMapValue = "proxy_add_header_map_value",
        ReplaceHeaderMapValue = "proxy_replace_header_map_value",
        RemoveHeaderMapValue = "proxy_remove_header_map_value",
        GetHeaderMapPairs = "proxy_get_header_map_pairs",
        SetHeaderMapPairs = "proxy_set_header_map_pairs",
        GetHeaderMapSize = "proxy_get_header_map_size",
        GetBufferBytes = "proxy_get_buffer_bytes",
        GetBufferStatus = "proxy_get_buffer_status",
        SetBufferBytes = "proxy_set_buffer_bytes",
        GetSharedData = "proxy_get_shared_data",
        SetSharedData = "proxy_set_shared_data",
        RegisterSharedQueue = "proxy_register_shared_queue",
        ResolveSharedQueue = "proxy_resolve_shared_queue",
        EnqueueSharedQueue = "proxy_enqueue_shared_queue",
        DequeueSharedQueue = "proxy_dequeue_shared_queue",
        DefineMetric = "proxy_define_metric",
        IncrementMetric = "proxy_increment_metric",
        RecordMetric = "proxy_record_metric",
        GetMetric = "proxy_get_metric",
        HttpCall = "proxy_http_call",
        GrpcCall = "proxy_grpc_call",
        GrpcStream = "proxy_grpc_stream",
        GrpcSend = "proxy_grpc_send",
        GrpcClose = "proxy_grpc_close",
        GrpcCancel = "proxy_grpc_cancel",
        CallForeignFunction = "proxy_call_foreign_function",
        WasiFdWrite = "fd_write",
        WasiFdRead = "fd_read",
        WasiFdSeek = "fd_seek",
        WasiFdClose = "fd_close",
        WasiFdFdstatGet = "fd_fdstat_get",
        WasiFdFdstatSetFlags = "fd_fdstat_set_flags",
        WasiEnvironGet = "environ_get",
        WasiEnvironSizesGet = "environ_sizes_get",
        WasiArgsGet = "args_get",
        WasiArgsSizesGet = "args_sizes_get",
        WasiClockTimeGet = "clock_time_get",
        WasiRandomGet = "random_get",
        WasiSchedYield = "sched_yield",
        WasiPollOneoff = "poll_oneoff",
        WasiProcExit = "proc_exit",
        WasiPathOpen = "path_open",
        WasiFdPrestatGet = "fd_prestat_get",
        WasiFdPrestatDirName = "fd_prestat_dir_name",
    }
}

impl Hostcall {
    /// Whether it is a WASI function, whose codes are WASI errors and not [`Status`].
    #[must_use]
    pub fn is_wasi(self) -> bool {
        self >= Self::WasiFdWrite
    }

    /// Whether Envoy 1.36 links `module.name`.
    pub(crate) fn is_linked(module: &str, name: &str) -> bool {
        let wasi = match module {
            "env" => false,
            "wasi_snapshot_preview1" | "wasi_unstable" => true,
            _ => return false,
        };
        Self::ALL.iter().any(|call| call.is_wasi() == wasi && call.name() == name)
    }
}

named! {
    /// A function of the module that the host calls.
    Callback {
        OnContextCreate = "proxy_on_context_create",
        OnVmStart = "proxy_on_vm_start",
        OnConfigure = "proxy_on_configure",
        OnTick = "proxy_on_tick",
        OnRequestHeaders = "proxy_on_request_headers",
        OnRequestBody = "proxy_on_request_body",
        OnRequestTrailers = "proxy_on_request_trailers",
        OnResponseHeaders = "proxy_on_response_headers",
        OnResponseBody = "proxy_on_response_body",
        OnResponseTrailers = "proxy_on_response_trailers",
        OnLog = "proxy_on_log",
        OnDone = "proxy_on_done",
        OnDelete = "proxy_on_delete",
        OnHttpCallResponse = "proxy_on_http_call_response",
        OnGrpcReceive = "proxy_on_grpc_receive",
        OnGrpcClose = "proxy_on_grpc_close",
    }
}

/// `usize` to the 32 bits of a wasm address; larger values saturate and then fail as a pointer or length.
pub(crate) fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

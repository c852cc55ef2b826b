//! The exports of a module.

/// Makes a module of a [`Plugin`](crate::Plugin): the exports every module needs and the callbacks that are named.
///
/// `sailcloth_host::export!(JwtFilter: request_headers, callout, tick);`
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($callback:ident),* $(,)?) => {
        thread_local! {
            static REGISTRY: $crate::Registry<$plugin> = $crate::Registry::new();
        }

        $crate::export!(@ _initialize, fn() { $crate::initialize() });
        $crate::export!(@ proxy_abi_version_0_2_1, fn() {});
        $crate::export!(@ proxy_on_memory_allocate, fn(size: usize) -> *mut u8 { $crate::allocate(size) });
        $crate::export!(@ proxy_on_context_create, fn(context: u32, parent: u32) {
            REGISTRY.with(|registry| registry.context_create(context, parent))
        });
        $crate::export!(@ proxy_on_configure, fn(context: u32, size: usize) -> u32 {
            REGISTRY.with(|registry| registry.configure(context, size))
        });
        $crate::export!(@ proxy_on_delete, fn(context: u32) {
            REGISTRY.with(|registry| registry.delete(context))
        });
        $($crate::export!(= $callback);)*
    };
    (= request_headers) => {
        $crate::export!(@ proxy_on_request_headers, fn(context: u32, _count: u32, _end: u32) -> u32 {
            REGISTRY.with(|registry| registry.request_headers(context))
        });
    };
    (= response_headers) => {
        $crate::export!(@ proxy_on_response_headers, fn(context: u32, _count: u32, _end: u32) -> u32 {
            REGISTRY.with(|registry| registry.response_headers(context))
        });
    };
    (= log) => {
        $crate::export!(@ proxy_on_log, fn(context: u32) {
            REGISTRY.with(|registry| registry.log(context))
        });
    };
    (= callout) => {
        $crate::export!(@ proxy_on_http_call_response,
            fn(context: u32, token: u32, headers: usize, body: usize, _trailers: usize) {
                REGISTRY.with(|registry| registry.callout(context, token, headers, body))
            });
    };
    (= grpc_answer) => {
        $crate::export!(@ proxy_on_grpc_receive, fn(context: u32, token: u32, size: usize) {
            REGISTRY.with(|registry| registry.grpc_receive(context, token, size))
        });
        $crate::export!(@ proxy_on_grpc_close, fn(context: u32, token: u32, status: u32) {
            REGISTRY.with(|registry| registry.grpc_close(context, token, status))
        });
    };
    (= tick) => {
        $crate::export!(@ proxy_on_tick, fn(context: u32) {
            REGISTRY.with(|registry| registry.tick(context))
        });
    };
    (@ $name:ident, fn($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block) => {
        #[allow(unsafe_code, reason = "a module's exports are looked up by their unmangled names")]
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $kind),*) $(-> $result)? $body
    };
}

/// For [`export!`] only: `_initialize`.
#[doc(hidden)]
pub fn initialize() {
    crate::abi::call_constructors();
}

/// For [`export!`] only: `proxy_on_memory_allocate`.
#[doc(hidden)]
#[must_use]
pub fn allocate(size: usize) -> *mut u8 {
    crate::abi::allocate(size)
}

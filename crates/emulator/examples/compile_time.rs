//! How long a module takes to compile and an instance to start: `cargo run --example compile_time -- filter.wasm`.

use std::time::Instant;

use sailcloth_emulator::{Module, Process, Vm, VmOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        let start = Instant::now();
        let module = Module::compile(&bytes)?;
        let compiled = start.elapsed();
        let start = Instant::now();
        Vm::new(&Process::new(), &module, VmOptions::default())?;
        println!("{path}: {} bytes, compiled in {compiled:?}, started in {:?}", bytes.len(), start.elapsed());
    }
    Ok(())
}

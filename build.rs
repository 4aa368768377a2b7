//! The linker arguments of the release binary: Cargo's profiles have no key for them.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/no-unwind-tables.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={script}");
    if std::env::var_os("PROFILE").is_some_and(|profile| profile == "release") {
        // A relative relocation in a bit or two instead of 24 bytes: glibc 2.36 (Debian 12) reads them.
        println!("cargo::rustc-link-arg-bin=restart-agent=-Wl,-z,pack-relative-relocs");
        println!("cargo::rustc-link-arg-bin=restart-agent=-Wl,--script={script}");
    }
}

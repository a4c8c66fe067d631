//! Sets the library's soname, by which programs load it. Without one, those that were linked by the library's path
//! would look for it at that path alone.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libonekv_c.so");
    }
}

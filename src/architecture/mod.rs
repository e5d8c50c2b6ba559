//! What each network is, without libtorch.

/// One network.
#[derive(Debug)]
pub struct Architecture {
    /// The name in specifications.
    pub name: &'static str,
    /// Side, in pixels, of the square input that the network was made for.
    pub input_side: u32,
}

/// Every network, in the order of the documentation.
#[must_use]
pub fn all() -> &'static [Architecture] {
    &[Architecture { name: "resnet20", input_side: 32 }, Architecture { name: "resnet56", input_side: 32 }]
}

/// The network of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Architecture> {
    all().iter().find(|architecture| architecture.name == name)
}

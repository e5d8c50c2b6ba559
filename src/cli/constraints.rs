//! Bounds for students, as flags.

use clap::Args;

/// A student that cannot keep them is warned of before it is trained.
#[derive(Debug, Clone, Default, Args)]
pub struct ConstraintArgs {
    /// Constraint: most milliseconds that the student may take for one image on the server's CPU. The server warns of a
    /// student whose untrained network takes longer.
    #[arg(long, env = "DISTILLERY_LATENCY_MS", value_name = "MS")]
    pub latency_ms: Option<f64>,
    /// Constraint: most milliseconds for 64 images at a time.
    #[arg(long, env = "DISTILLERY_LATENCY_64_MS", value_name = "MS")]
    pub latency_64_ms: Option<f64>,
    /// Constraint: most megabytes of 1,000,000 bytes that the student's weights may have.
    #[arg(long, env = "DISTILLERY_SIZE_MB", value_name = "MB")]
    pub size_mb: Option<f64>,
    /// Constraint: most parameters of the student.
    #[arg(long, env = "DISTILLERY_PARAMETERS", value_name = "COUNT")]
    pub parameters: Option<f64>,
}

impl ConstraintArgs {
    /// The parameters of a request.
    #[must_use]
    pub fn query(&self) -> Vec<(&'static str, f64)> {
        let bounds = [
            ("latency_ms", self.latency_ms),
            ("latency_64_ms", self.latency_64_ms),
            ("size_mb", self.size_mb),
            ("parameters", self.parameters),
        ];
        bounds.into_iter().filter_map(|(name, most)| Some((name, most?))).collect()
    }
}

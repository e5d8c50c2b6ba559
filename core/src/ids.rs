//! The form of ids: a prefix, which tells the kind of resource, and a tail. The server and the client commands check
//! ids by the same rule.

/// The form of the ids of a kind of resource.
#[derive(Debug, Clone, Copy)]
pub struct IdForm {
    pub prefix: &'static str,
    /// The form of the tail, for error messages.
    pub tail: &'static str,
    length: usize,
    is_part: fn(u8) -> bool,
}

/// Of jobs. The tail is a ULID.
pub const JOB: IdForm = of_ulid("job_");
/// Of sweeps. The tail is a ULID.
pub const SWEEP: IdForm = of_ulid("swp_");
/// Of checkpoints and exported networks. The tail is the beginning of the file's SHA-256.
pub const CHECKPOINT: IdForm =
    IdForm { prefix: "ckpt_", tail: "32 lower-case hexadecimal digits", length: 32, is_part: is_hexadecimal };

const fn of_ulid(prefix: &'static str) -> IdForm {
    IdForm { prefix, tail: "26 capital letters and digits", length: 26, is_part: is_capital_or_digit }
}

fn is_capital_or_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_uppercase()
}

fn is_hexadecimal(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl IdForm {
    /// Whether a text has this form.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let tail = text.strip_prefix(self.prefix);
        tail.is_some_and(|tail| tail.len() == self.length && tail.bytes().all(self.is_part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_prefix_and_a_whole_tail() {
        assert!(JOB.fits("job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ"));
        assert!(SWEEP.fits("swp_01KB3Z6V0Q2M5K8N1R4T7W9XYZ"));
        assert!(CHECKPOINT.fits("ckpt_2c26b46b68ffc68ff99b453c1d304134"));
        let wrong =
            ["", "job_", "job_1", "swp_nope", "swp_01KB3Z6V0Q2M5K8N1R4T7W9XYZ", "job_01kb3z6v0q2m5k8n1r4t7w9xyz"];
        assert!(!wrong.iter().any(|text| JOB.fits(text)));
    }
}

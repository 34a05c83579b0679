use std::fmt;

/// One mistake in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Its path, such as `spec.resources.limits.memory`.
    pub field: String,
    pub value: String,
    /// What to write instead.
    pub mend: String,
}

impl FieldError {
    pub fn new(field: &str, value: impl fmt::Display, mend: impl Into<String>) -> FieldError {
        FieldError {
            field: field.into(),
            value: value.to_string(),
            mend: mend.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.field, self.value, self.mend)
    }
}

/// Everything that is wrong with a manifest; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub errors: Vec<FieldError>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

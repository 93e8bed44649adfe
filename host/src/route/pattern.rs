//! Paths of routes, from text to segments.
//!
//! Not here: finding a route by a path (`tree`).

use super::path::{PathError, encode, normalize};

/// Parameters of one route. A request carries their positions on the stack.
pub const PARAMETERS_MAX: usize = 16;

/// Segments of one route's path. Finding a route recurses once per segment.
pub const SEGMENTS_MAX: usize = 128;

/// Why a route's path, host or template was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A route's path begins with `/`.
    #[error("a path must begin with `/`")]
    NotAbsolute,
    /// What stands in the text is no path.
    #[error("{0}")]
    Path(#[from] PathError),
    /// Requests never have them (`path::normalize`).
    #[error("`.` and `..` never match: requests are compared without them")]
    DotSegment,
    /// Routes match paths, not queries.
    #[error("a path holds neither `?` nor `#`")]
    Query,
    /// A brace that belongs to no parameter, or a parameter that is not a whole segment.
    #[error(
        "`{0}`: a parameter is a whole segment, `{{name}}` or `{{*rest}}`; write a brace as %7B or %7D"
    )]
    Brace(String),
    /// A name is letters, digits, `_`, `-`.
    #[error("`{0}`: a parameter's name consists of letters, digits, `_` and `-`")]
    Name(String),
    /// A name stands for one value.
    #[error("parameter `{0}` is there twice")]
    Repeated(String),
    /// Nothing can follow the remainder.
    #[error("`{{*{0}}}` takes all that is left, so it must come last")]
    AfterWildcard(String),
    /// More than [`PARAMETERS_MAX`].
    #[error("more than {PARAMETERS_MAX} parameters")]
    TooManyParameters,
    /// More than [`SEGMENTS_MAX`].
    #[error("more than {SEGMENTS_MAX} segments")]
    TooManySegments,
    /// Not a host.
    #[error("`{0}` is not a host")]
    Host(String),
    /// A template names a parameter that the route's path does not have.
    #[error("`{{{0}}}` is not a parameter of the route's path")]
    Unknown(String),
    /// A value of the client's would decide where a redirect leads.
    #[error("`{{{0}}}` in the host of a redirect must be followed by `.` and a domain, or `/`")]
    Authority(String),
}

/// One segment of a route's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Itself, normalized.
    Literal(String),
    /// `{name}`: any one segment that is not empty.
    Parameter,
}

/// A route's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) segments: Vec<Segment>,
    /// Whether `{*rest}` follows the segments.
    pub(super) wildcard: bool,
    /// Names of the parameters, in order, the wildcard's last.
    pub(super) names: Vec<Box<str>>,
}

impl Pattern {
    /// Parses a path. `/a/` has an empty last segment.
    pub(super) fn parse(path: &str) -> Result<Self, PatternError> {
        let rest = path.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
        if rest.contains(['?', '#']) {
            return Err(PatternError::Query);
        }
        let mut pattern = Self { segments: Vec::new(), wildcard: false, names: Vec::new() };
        for text in rest.split('/') {
            if pattern.wildcard {
                let name = pattern.names.pop().unwrap_or_default();
                return Err(PatternError::AfterWildcard(name.into()));
            }
            match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
                Some(name) => pattern.push_parameter(text, name)?,
                None if text.contains(['{', '}']) => {
                    return Err(PatternError::Brace(text.to_owned()));
                }
                None => pattern.segments.push(Segment::Literal(literal(text)?)),
            }
        }
        if pattern.segments.len() > SEGMENTS_MAX {
            return Err(PatternError::TooManySegments);
        }
        Ok(pattern)
    }

    fn push_parameter(&mut self, text: &str, name: &str) -> Result<(), PatternError> {
        let (name, wildcard) = name.strip_prefix('*').map_or((name, false), |name| (name, true));
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(known) {
            return Err(PatternError::Name(text.to_owned()));
        }
        if self.names.iter().any(|other| **other == *name) {
            return Err(PatternError::Repeated(name.to_owned()));
        }
        if self.names.len() == PARAMETERS_MAX {
            return Err(PatternError::TooManyParameters);
        }
        self.names.push(name.into());
        if wildcard {
            self.wildcard = true;
        } else {
            self.segments.push(Segment::Parameter);
        }
        Ok(())
    }
}

/// A literal as it looks in a normalized request.
fn literal(text: &str) -> Result<String, PatternError> {
    let path = format!("/{}", encode(text));
    let normal = match normalize(&path) {
        Ok(normal) => normal,
        Err(PathError::AboveRoot) => return Err(PatternError::DotSegment),
        Err(error) => return Err(error.into()),
    };
    // A dot segment vanishes when it is normalized, or it could not be in a request.
    if normal == "/" && !text.is_empty() {
        return Err(PatternError::DotSegment);
    }
    Ok(normal[1..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_into_segments() {
        let pattern = Pattern::parse("/users/{id}/files/{*rest}").unwrap();

        assert_eq!(
            pattern.segments,
            [
                Segment::Literal("users".into()),
                Segment::Parameter,
                Segment::Literal("files".into())
            ]
        );
        assert!(pattern.wildcard);
        assert_eq!(pattern.names, ["id".into(), "rest".into()]);
    }

    #[test]
    fn literals_are_spelled_as_requests_are() {
        let pattern = Pattern::parse("/café/%61%2f/").unwrap();

        let literals = ["caf%C3%A9", "a%2F", ""].map(|text| Segment::Literal(text.into()));
        assert_eq!(pattern.segments, literals);
    }

    #[test]
    fn paths_that_could_never_match_are_refused() {
        use PatternError as E;
        for (path, error) in [
            ("", E::NotAbsolute),
            ("a", E::NotAbsolute),
            ("/a?b", E::Query),
            ("/a#", E::Query),
            ("/a/../b", E::DotSegment),
            ("/a/%2e", E::DotSegment),
            ("/%zz", E::Path(PathError::Encoding)),
            ("/a{b}", E::Brace("a{b}".into())),
            ("/{b", E::Brace("{b".into())),
            ("/{}", E::Name("{}".into())),
            ("/{*}", E::Name("{*}".into())),
            ("/{a}{b}", E::Name("{a}{b}".into())),
            ("/{a}/{a}", E::Repeated("a".into())),
            ("/{*a}/b", E::AfterWildcard("a".into())),
        ] {
            assert_eq!(Pattern::parse(path), Err(error), "{path}");
        }
        let many = (0..=PARAMETERS_MAX).map(|n| format!("/{{p{n}}}")).collect::<String>();
        assert_eq!(Pattern::parse(&many), Err(E::TooManyParameters));
        assert_eq!(Pattern::parse(&"/a".repeat(129)), Err(E::TooManySegments));
    }
}

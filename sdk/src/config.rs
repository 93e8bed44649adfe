//! From the operator's JSON to the plugin, with errors that name the key.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::Problem;

/// Reads a configuration. The error begins with the path of the key that is wrong, if it is one key.
pub(crate) fn read<P: DeserializeOwned>(json: &str) -> Result<P, String> {
    let mut input = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let path = error.path().to_string();
        let reason = without_position(error.inner());
        if path == "." { reason } else { format!("`{path}`: {reason}") }
    })?;
    input.end().map_err(|error| without_position(&error))?;
    Ok(value)
}

/// The same; the error is where the problem is, as a JSON pointer, and what it is.
pub(crate) fn read_or_problem<P: DeserializeOwned>(json: &str) -> Result<P, Problem> {
    let mut input = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let path = error.path().iter().map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        });
        let path: String = path.collect();
        let message = without_position(error.inner());
        Problem { path, message }
    })?;
    input.end().map_err(|error| Problem::new("", without_position(&error)))?;
    Ok(value)
}

/// The operator's text has been through a parser and a printer: line and column would mislead.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[expect(dead_code, reason = "only errors matter here")]
        names: Vec<String>,
    }

    fn refusal(json: &str) -> String {
        read::<Config>(json).unwrap_err()
    }

    /// An operator finds the place by the path, not by a position in a text that they did not write.
    #[test]
    fn an_error_names_the_key_and_no_position() {
        assert_eq!(
            refusal(r#"{ "names": ["a", 5] }"#),
            "`names[1]`: invalid type: integer `5`, expected a string"
        );
        assert_eq!(refusal(r#"{ "name": [] }"#), "`name`: unknown field `name`, expected `names`");
        assert_eq!(refusal("{}"), "missing field `names`");
        assert_eq!(refusal(r#"{ "names": [] } x"#), "trailing characters");
    }
}

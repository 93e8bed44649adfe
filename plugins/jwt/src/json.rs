//! JSON objects read strictly: a member that stands there twice is refused at any depth, because
//! two readers may take two different ones (RFC 8259 §4, RFC 7515 §4).
//!
//! What is read borrows from the text, and an object is a list in the order written: a token has a handful of
//! members, and making a tree of copies took longer than checking its signature.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Number;

/// The one JSON object that `text` is. serde_json goes 128 levels deep and no further.
pub(crate) fn object(text: &[u8]) -> Option<Object<'_>> {
    match serde_json::from_slice(text) {
        Ok(Json::Object(object)) => Some(object),
        _ => None,
    }
}

/// A value of JSON.
#[derive(Debug)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Object<'a>),
}

impl Json<'_> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            _ => None,
        }
    }
}

/// An object's members, each there once.
#[derive(Debug)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// So many members are compared one by one; those of more are sorted for that.
    const FEW: usize = 16;

    fn has_twins(&self) -> bool {
        let members = &self.0;
        if members.len() <= Self::FEW {
            let is_before = |(at, (name, _)): (usize, &(Cow<'_, str>, _))| {
                members[..at].iter().any(|(earlier, _)| earlier == name)
            };
            return members.iter().enumerate().any(is_before);
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => list.serialize(serializer),
            Self::Object(Object(members)) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        let number = Number::from_f64(value);
        number.map(Json::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some((Name(name), value)) = map.next_entry()? {
            members.push((name, value));
        }
        let object = Object(members);
        if object.has_twins() {
            return Err(A::Error::custom("a member stands there twice"));
        }
        Ok(Json::Object(object))
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_object_passes() {
        assert!(object(br#"{"a":[1,-2,0.5,{"b":null,"c":true}],"d":"e"}"#).is_some());
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":[{"b":1,"\u0062":2}]}"#,
            "[]",
            "1",
            "{}{}",
            "{} x",
            "",
            "{",
        ] {
            assert!(object(text.as_bytes()).is_none(), "{text}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn of_many_members_two_of_one_name_are_found() {
        let members = |last: &str| {
            let many: String = (0..2000).map(|number| format!("\"m{number}\":{number},")).collect();
            format!("{{{many}\"{last}\":0}}")
        };

        assert!(object(members("m2000").as_bytes()).is_some());
        assert!(object(members("m1234").as_bytes()).is_none());
    }

    #[test]
    fn what_was_read_is_written_as_it_was() {
        let text =
            r#"{"z":[1,-2,0.5,{"b":null,"a":true}],"d":"\"\n\u00e4","c":18446744073709551615}"#;

        let read: Json<'_> = serde_json::from_str(text).unwrap();

        assert_eq!(serde_json::to_string(&read).unwrap(), text.replace("\\u00e4", "ä"));
        let read = object(text.as_bytes()).unwrap();
        assert_eq!(read.get("d").and_then(Json::as_str), Some("\"\nä"));
        assert_eq!(read.get("e").and_then(Json::as_f64), None);
    }

    /// Each level would take a piece of the stack.
    #[test]
    fn depth_has_an_end() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(8000), "]".repeat(8000));

        assert!(object(deep.as_bytes()).is_none());
    }
}

//! `plugin new`: a project from a template.
//!
//! A template is a plugin that builds and passes its tests under the name `my-plugin`; a project is a
//! copy of it under another name.
//!
//! Not here: the templates (`sdk/templates`).

use std::path::Path;

use serde_json::json;

use super::{Answer, Error, Language, kit, project};

/// The name that templates have.
const PLACEHOLDER: &str = "my-plugin";

/// Why there is no template for Go.
const NO_GO: &str = "\
Go is not supported yet: its compiler makes wasm for WASI p1 only, and the usual adapter from that to a component \
either calls into Go before its runtime has started or corrupts its heap. sdk/README.md says what was tried, and \
what works. \
Write the plugin in Rust, C, JavaScript or Python.";

/// Makes the project `name` in a new folder of the working directory.
pub(super) fn new(name: &str, language: Language) -> Result<Answer, Error> {
    if language == Language::Go {
        return Err(Error::failure(NO_GO));
    }
    if !is_name(name) {
        return Err(Error::usage(format!(
            "`{name}` cannot name a plugin; use lower-case letters, digits and `-`, at most 64, a \
             letter in front"
        )));
    }
    let folder = Path::new(name);
    if folder.exists() {
        return Err(Error::failure(format!("{name} is there already")));
    }
    let template = format!("sdk/templates/{}", language.folder());
    let mut files = Vec::new();
    for (path, content) in kit::files(&template) {
        // Files whose names begin with a dot would act in this repository.
        let path = path.replace("dot.", ".");
        let content = String::from_utf8_lossy(content)
            .replace(PLACEHOLDER, name)
            .replace(&PLACEHOLDER.replace('-', "_"), &name.replace('-', "_"));
        kit::write(&folder.join(&path), content.as_bytes())?;
        files.push(path);
    }
    project::lay_sdk(folder)?;
    let text = format!(
        "{name}/ is a plugin in {}.\n\n  cd {name}\n  zproxy plugin build    # makes plugins/{name}.wasm\n  \
         zproxy plugin test     # plays tests/*.http through it\n  zproxy                 # serves it: \
         curl -i http://127.0.0.1:8080/\n\nREADME.md says what is where.",
        language.title()
    );
    let json = json!({ "ok": true, "name": name, "folder": folder, "language": language.folder(),
        "files": files });
    Ok(Answer { text, json, failed: None })
}

/// Whether a name is good for a plugin, a folder and a package of every language.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 64
        && name.bytes().all(plain)
        && name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_serves_as_file_folder_and_package() {
        assert!(["a", "a-b", "jwt2"].into_iter().all(is_name));
        assert!(!["", "A", "2a", "a_b", "a/b", "..", "a-", "-a"].into_iter().any(is_name));
    }
}

//! From flags, variables and a file to settings; once for a command, and again for every reload.
//!
//! Not here: what is done with the settings (`main`).

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use zproxy::config::{self, Overrides, Problem, Problems, Settings, System};
use zproxy::control::{Origin, StartError};

/// The configuration that is taken when none is named.
const DEFAULT_FILE: &str = "zproxy.json";

/// The largest file that is read as a configuration: far more than one needs, and little enough for
/// what was named by mistake, such as a device without an end.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where the configuration comes from, and what overrides it. A flag wins over its variable.
#[derive(Args, Clone)]
pub(crate) struct Source {
    /// Configuration file [default: ./zproxy.json if there is one, else the embedded default].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder whose *.wasm files are plugins.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Listens here instead of where the file says: ip:port or unix:/path.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Number of workers, or `auto`.
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Admin address, or `off`.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Sets a key of the configuration, such as limits.headers_max=50.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Source {
    /// The plugins folder that a flag or a variable names.
    pub(crate) fn plugins_folder(&self) -> Result<Option<PathBuf>, LoadError> {
        let flag = self.plugins.clone().map(|path| text("--plugins", path.into())).transpose()?;
        Ok(pick("--plugins", flag, "ZPROXY_PLUGINS")?.map(|(_, folder)| folder.into()))
    }
}

/// A loaded configuration, or why there is none.
pub(crate) enum LoadError {
    Usage(String),
    Config(Problems),
}

/// What was loaded, and from what.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) written: Written,
    /// There is no file: the embedded default was taken.
    pub(crate) embedded: bool,
}

/// What the configuration was read from, to find places in it.
pub(crate) struct Written {
    text: Vec<u8>,
    /// For people: the file's name, or that there was none.
    pub(crate) name: String,
    overrides: Overrides,
}

impl Written {
    fn place(&self, problems: Problems) -> Problems {
        config::place(&self.text, &self.name, &self.overrides, problems)
    }

    /// Why a start failed, for people and for programs.
    pub(crate) fn explain(&self, error: StartError) -> (String, serde_json::Value) {
        match error {
            StartError::Config(problems) | StartError::Plugin(problems) => {
                let problems = self.place(problems);
                (problems.to_string(), serde_json::json!(problems))
            }
            StartError::Bind(_) | StartError::Other(_) => {
                let text = error.to_string();
                let list = serde_json::json!([{ "message": text }]);
                (text, list)
            }
        }
    }
}

pub(crate) fn load(source: &Source) -> Result<Loaded, LoadError> {
    let mut overrides = Overrides::default();
    let plugins = source.plugins.clone().map(|path| text("--plugins", path.into())).transpose()?;
    if let Some((name, value)) = pick("--plugins", plugins, "ZPROXY_PLUGINS")? {
        overrides.plugins_dir(name, &value);
    }
    if let Some((name, value)) = pick("--listen", source.listen.clone(), "ZPROXY_LISTEN")? {
        overrides.listen(name, &value);
    }
    if let Some((name, value)) = pick("--workers", source.workers.clone(), "ZPROXY_WORKERS")? {
        overrides.workers(name, &value);
    }
    if let Some((name, value)) = pick("--admin", source.admin.clone(), "ZPROXY_ADMIN")? {
        overrides.admin(name, &value);
    }
    for argument in &source.set {
        overrides.set(argument).map_err(LoadError::Usage)?;
    }
    let named = source.config.clone();
    let named = named.or_else(|| variable("ZPROXY_CONFIG").map(PathBuf::from));
    let Some(file) = named.or_else(default_file) else {
        let loaded = config::load_embedded(&overrides, &System, &[]);
        let (_, settings) = loaded.map_err(LoadError::Config)?;
        let name = config::EMBEDDED.to_owned();
        let written = Written { text: Vec::new(), name, overrides };
        return Ok(Loaded { settings, written, embedded: true });
    };
    let name = file.display().to_string();
    let text = read(&file).map_err(|error| {
        let message = format!("cannot be read: {error}");
        let problem = Problem::at("", message, "name a readable file with `--config FILE`");
        LoadError::Config(Problems(vec![Problem { file: name.clone(), ..problem }]))
    })?;
    let loaded = config::load(&text, &name, &overrides, &System, &[]);
    let (_, settings) = loaded.map_err(LoadError::Config)?;
    Ok(Loaded { settings, written: Written { text, name, overrides }, embedded: false })
}

/// The file in the working directory, if there is one. A link that leads nowhere and a folder that
/// cannot be looked into are mistakes to be told, not the absence of a file.
fn default_file() -> Option<PathBuf> {
    match std::fs::symlink_metadata(DEFAULT_FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Ok(_) | Err(_) => Some(DEFAULT_FILE.into()),
    }
}

/// The content of a configuration file, which may be a pipe.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// The value of a flag, else that of its variable, with the name of the one that was taken.
fn pick(
    flag: &'static str,
    given: Option<String>,
    name: &'static str,
) -> Result<Option<(&'static str, String)>, LoadError> {
    if let Some(value) = given {
        return Ok(Some((flag, value)));
    }
    variable(name).map(|value| Ok((name, text(name, value)?))).transpose()
}

/// A variable of the environment; an empty one counts as not set.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The value of the flag or variable `name` as the text of a configuration.
pub(crate) fn text(name: &str, value: OsString) -> Result<String, LoadError> {
    value
        .into_string()
        .map_err(|value| LoadError::Usage(format!("{name}: {} is not UTF-8", value.display())))
}

/// Reads the configuration again as this command line says.
pub(crate) struct Reread {
    source: Source,
    /// What was read last.
    written: Option<Written>,
    embedded: bool,
}

impl Reread {
    /// For the command line that led to `loaded`.
    pub(crate) fn new(source: &Source, loaded: &Loaded) -> Self {
        Self { source: source.clone(), written: None, embedded: loaded.embedded }
    }
}

impl Origin for Reread {
    fn load(&mut self) -> Result<Settings, Problems> {
        match load(&self.source) {
            Ok(Loaded { settings, written, embedded }) => {
                (self.written, self.embedded) = (Some(written), embedded);
                Ok(settings)
            }
            Err(LoadError::Config(problems)) => Err(problems),
            Err(LoadError::Usage(message)) => {
                Err(Problems(vec![Problem::at("", message, "mend the flag or variable")]))
            }
        }
    }

    fn place(&self, problems: Problems) -> Problems {
        match &self.written {
            Some(written) => written.place(problems),
            None => problems,
        }
    }

    fn follows_folder(&self) -> bool {
        self.embedded
    }
}

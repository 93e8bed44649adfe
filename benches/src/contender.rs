//! Who is measured: starting a proxy in its place, knowing that it answers, ending it.
//!
//! Each start gets a free port, its own folder and a configuration filled in from `peers/`. A
//! contender is ready when a request through it came back right and every listener on its port
//! is its own.
//!
//! Not here: which load it gets (`scenario`), where it runs (`machine`).

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::Flags;
use crate::jwt::{self, Signed};
use crate::launch::Place;
use crate::running::Running;
use crate::tls;

/// A program, and what it is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Name in tables and flags.
    pub(crate) name: &'static str,
    program: Program,
    workers: u8,
    tls: bool,
    /// Whether it checks tokens.
    jwt: Option<Signed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// No proxy at all: the load generator asks the origin.
    Direct,
    /// This binary's own `relay`.
    Relay { splice: bool },
    /// `peers/haproxy.cfg`, with splicing of bodies, with the fields that ZProxy adds, or with its cache.
    Haproxy { splice: bool, fields: bool, cache: bool },
    /// `peers/nginx.conf`, with buffers for large bodies, or with its cache.
    Nginx { tuned: bool, cache: bool },
    /// `peers/envoy.yaml`.
    Envoy,
    /// `peers/zproxy.json`.
    Zproxy { io: &'static str, plugins: Plugins },
}

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugins {
    /// None at all: it prices a gateway that has no wasm to run.
    None,
    /// A chain of the no-op plugin so many times.
    Noop(usize),
    /// `header-stamp`, which sets one field of each response.
    Stamp,
    /// Three different ones, on a route of their own.
    Three,
    /// The cache.
    Cache,
}

const HAPROXY_PLAIN: Program = Program::Haproxy { splice: false, fields: false, cache: false };

const fn kind(name: &'static str, program: Program) -> Kind {
    Kind { name, program, workers: 1, tls: false, jwt: None }
}

const fn zproxy(name: &'static str, io: &'static str, plugins: Plugins) -> Kind {
    kind(name, Program::Zproxy { io, plugins })
}

/// The origin itself.
pub(crate) const DIRECT: Kind = kind("direct", Program::Direct);
/// Moves bytes.
pub(crate) const RELAY: Kind = kind("relay", Program::Relay { splice: false });
/// Moves bytes in the kernel.
pub(crate) const RELAY_SPLICE: Kind = kind("relay-splice", Program::Relay { splice: true });
/// HAProxy with what everyone does.
pub(crate) const HAPROXY: Kind = kind("haproxy", HAPROXY_PLAIN);
/// HAProxy with ZProxy's fields.
pub(crate) const HAPROXY_FIELDS: Kind =
    kind("haproxy-fields", Program::Haproxy { splice: false, fields: true, cache: false });
/// HAProxy with splicing.
pub(crate) const HAPROXY_SPLICE: Kind =
    kind("haproxy-splice", Program::Haproxy { splice: true, fields: false, cache: false });
/// HAProxy answering from its cache.
pub(crate) const HAPROXY_CACHE: Kind =
    kind("haproxy-cache", Program::Haproxy { splice: false, fields: false, cache: true });
/// nginx with its default buffers.
pub(crate) const NGINX: Kind = kind("nginx", Program::Nginx { tuned: false, cache: false });
/// nginx with large ones.
pub(crate) const NGINX_TUNED: Kind =
    kind("nginx-tuned", Program::Nginx { tuned: true, cache: false });
/// nginx answering from its cache.
pub(crate) const NGINX_CACHE: Kind =
    kind("nginx-cache", Program::Nginx { tuned: false, cache: true });
/// Envoy.
pub(crate) const ENVOY: Kind = kind("envoy", Program::Envoy);
/// ZProxy on epoll.
pub(crate) const EPOLL: Kind = zproxy("zproxy-epoll", "epoll", Plugins::None);
/// ZProxy on io_uring.
pub(crate) const URING: Kind = zproxy("zproxy-uring", "uring", Plugins::None);
/// With a plugin that does nothing.
pub(crate) const EPOLL_1: Kind = zproxy("zproxy-epoll+1", "epoll", Plugins::Noop(1));
/// With four times that.
pub(crate) const EPOLL_4: Kind = zproxy("zproxy-epoll+4", "epoll", Plugins::Noop(4));
/// With a plugin that sets one field.
pub(crate) const EPOLL_STAMP: Kind = zproxy("zproxy-epoll+stamp", "epoll", Plugins::Stamp);
/// Answering from its cache.
pub(crate) const EPOLL_CACHE: Kind = zproxy("zproxy-epoll+cache", "epoll", Plugins::Cache);
/// The same on io_uring.
pub(crate) const URING_CACHE: Kind = zproxy("zproxy-uring+cache", "uring", Plugins::Cache);
/// With three plugins loaded.
pub(crate) const EPOLL_THREE: Kind = zproxy("zproxy-epoll+three", "epoll", Plugins::Three);

impl Kind {
    /// The same with two workers.
    pub(crate) const fn two_workers(self, name: &'static str) -> Self {
        Self { name, workers: 2, ..self }
    }

    /// The same with TLS to clients; not for Envoy and relays.
    pub(crate) const fn tls(self, name: &'static str) -> Self {
        Self { name, tls: true, ..self }
    }

    /// The same, checking tokens; not for relays.
    pub(crate) const fn jwt(self, name: &'static str, signed: Signed) -> Self {
        Self { name, jwt: Some(signed), ..self }
    }

    /// Whether it has the machine's second CPU for proxies too.
    pub(crate) fn has_two_workers(self) -> bool {
        self.workers == 2
    }

    /// Whether `--only` with these names lets it take part: `zproxy` names all that begin so.
    pub(crate) fn is_among(self, names: &[String]) -> bool {
        let is_named = |given: &String| {
            let rest = self.name.strip_prefix(given.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '+']))
        };
        names.is_empty() || names.iter().any(is_named)
    }
}

/// Where the programs are, and what every contender has in common.
pub(crate) struct Lab {
    /// Folder for configurations and logs; removed at the end.
    pub(crate) scratch: PathBuf,
    /// What all forward to.
    pub(crate) origin: SocketAddr,
    /// CPU and priority of the proxy; with two workers there is one more CPU.
    pub(crate) place: Place,
    pub(crate) second_cpu: Option<usize>,
    /// The zproxy binary.
    pub(crate) zproxy: PathBuf,
    /// The plugin that does nothing.
    pub(crate) noop: PathBuf,
    /// Folder with the other plugins.
    pub(crate) plugins: PathBuf,
    /// Envoy's binary, where it is not in the path.
    pub(crate) envoy: PathBuf,
    /// Folder of the configurations, with places to fill.
    pub(crate) peers: PathBuf,
}

impl Lab {
    /// With the paths that flags say, or where the repository's own commands leave things.
    pub(crate) fn new(flags: &mut Flags, origin: SocketAddr, place: Place) -> Self {
        let mut path = |name: &str, default: &str| {
            PathBuf::from(flags.text(name).unwrap_or(default.to_owned()))
        };
        Self {
            scratch: std::env::temp_dir().join(format!("zproxy-bench-{}", std::process::id())),
            origin,
            place,
            second_cpu: None,
            zproxy: path("zproxy", "target/release/zproxy"),
            noop: path("noop", "target/guests/tests/noop.wasm"),
            plugins: path("plugins", "plugins"),
            envoy: path("envoy", "target/peers/envoy/_bin/envoy"),
            peers: path("peers", "benches/peers"),
        }
    }

    /// Why a contender cannot take part, if so.
    pub(crate) fn missing(&self, kind: Kind) -> Option<String> {
        let (io, plugins) = match kind.program {
            Program::Direct | Program::Relay { .. } => return None,
            Program::Haproxy { .. } => return missing_program("haproxy", "-v"),
            Program::Nginx { .. } => {
                let lua = Path::new(jwt::NGINX_MODULES).join("ngx_http_lua_module.so");
                if kind.jwt.is_some() && !lua.is_file() {
                    return Some("nginx has no Lua; run benches/setup.sh".to_owned());
                }
                return missing_program("nginx", "-v");
            }
            Program::Envoy => return missing_program(&self.envoy_path(), "--version"),
            Program::Zproxy { io, plugins } => (io, plugins),
        };
        let needed: Vec<PathBuf> = match plugins {
            Plugins::None if kind.jwt.is_some() => vec![self.zproxy.clone(), self.plugin("jwt")],
            Plugins::None => vec![self.zproxy.clone()],
            Plugins::Noop(_) => vec![self.zproxy.clone(), self.noop.clone()],
            Plugins::Stamp => vec![self.zproxy.clone(), self.plugin("header-stamp")],
            Plugins::Cache => vec![self.zproxy.clone(), self.plugin("cache")],
            Plugins::Three => {
                vec![
                    self.zproxy.clone(),
                    self.noop.clone(),
                    self.plugin("jwt"),
                    self.plugin("header-stamp"),
                ]
            }
        };
        if let Some(path) = needed.iter().find(|path| !path.is_file()) {
            return Some(format!("there is no {}; build it or name another", path.display()));
        }
        self.refusal(io).unwrap_or_else(|error| Some(format!("{error:#}")))
    }

    /// What ZProxy says against this back end: a version without it refuses the key.
    fn refusal(&self, io: &str) -> Result<Option<String>> {
        let probe = self.scratch.join("probe.json");
        fs::create_dir_all(&self.scratch)?;
        let route = json!({ "path": "/", "respond": { "status": 200 } });
        fs::write(&probe, json!({ "workers": { "io": io }, "routes": [route] }).to_string())?;
        let check = Command::new(&self.zproxy).args(["check", "--config"]).arg(&probe).output()?;
        let said = String::from_utf8_lossy(&check.stderr);
        let why = said.lines().next().unwrap_or_default().to_owned();
        Ok((!check.status.success()).then_some(why))
    }

    fn envoy_path(&self) -> String {
        if self.envoy.is_file() { self.envoy.display().to_string() } else { "envoy".to_owned() }
    }

    /// A plugin's file; `-` and `_` are the same in its name.
    fn plugin(&self, name: &str) -> PathBuf {
        let path = self.plugins.join(format!("{name}.wasm"));
        if path.exists() {
            path
        } else {
            self.plugins.join(format!("{}.wasm", name.replace('-', "_")))
        }
    }

    /// Starts a contender and waits until it serves.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running> {
        if kind == DIRECT {
            let (target, tls) = (self.origin, false);
            return Ok(Running { child: None, target, tls, pids: vec![], config: None });
        }
        let name = kind.name;
        let folder = self.scratch.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        if kind.tls {
            tls::write_certificate(&folder)?;
        }
        let port = free_port()?;
        let config = self.config(kind, port, &folder)?;
        let path = folder.join(config.as_ref().map_or("none", |config| config.0));
        if let Some((_, text)) = &config {
            fs::write(&path, text)?;
        }
        let words = self.words(kind, port, &path, &folder)?;
        let log = fs::File::create(folder.join("output.log"))?;
        let second_cpu = self.second_cpu.filter(|_| kind.has_two_workers());
        let child = self
            .place
            .command_with(&words, second_cpu)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut running = Running {
            child: Some(child),
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            tls: kind.tls,
            pids: vec![],
            config,
        };
        if let Err(error) = running.become_ready() {
            let log = fs::read_to_string(folder.join("output.log")).unwrap_or_default();
            bail!("{name}: {error:#}; it said:\n{}", log.trim());
        }
        Ok(running)
    }

    fn words(&self, kind: Kind, port: u16, config: &Path, folder: &Path) -> Result<Vec<String>> {
        let config = config.display().to_string();
        let words = |program: String, flags: &[&str]| {
            std::iter::once(program).chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
        };
        Ok(match kind.program {
            Program::Direct => vec![],
            Program::Relay { splice } => {
                let (port, origin) = (port.to_string(), self.origin.to_string());
                let own = std::env::current_exe().context("cannot find the path of this binary")?;
                let flags = ["relay", "--port", &port, "--origin", &origin, "--splice"];
                let flags = if splice { &flags[..] } else { &flags[..5] };
                words(own.display().to_string(), flags)
            }
            Program::Haproxy { .. } => words("haproxy".into(), &["-db", "-f", &config]),
            Program::Nginx { .. } => {
                let prefix = folder.display().to_string();
                let errors = folder.join("error.log").display().to_string();
                words("nginx".into(), &["-p", &prefix, "-e", &errors, "-c", &config])
            }
            Program::Envoy => {
                let workers = kind.workers.to_string();
                let quiet = ["--log-level", "warn", "--disable-hot-restart"];
                let flags = ["-c", &config, "--concurrency", &workers];
                words(self.envoy_path(), &[&flags[..], &quiet].concat())
            }
            Program::Zproxy { .. } => {
                words(self.zproxy.display().to_string(), &["run", "--config", &config])
            }
        })
    }

    /// File name and text of a contender's configuration, if it has one.
    fn config(
        &self,
        kind: Kind,
        port: u16,
        folder: &Path,
    ) -> Result<Option<(&'static str, String)>> {
        let file = match kind.program {
            Program::Direct | Program::Relay { .. } => return Ok(None),
            Program::Haproxy { .. } => "haproxy.cfg",
            Program::Nginx { .. } => "nginx.conf",
            Program::Envoy => "envoy.yaml",
            Program::Zproxy { .. } => "zproxy.json",
        };
        let template = self.peers.join(file);
        let template = fs::read_to_string(&template)
            .with_context(|| format!("cannot read {}", template.display()))?;
        let mut text = template
            .replace("@PORT@", &port.to_string())
            .replace("@ORIGIN@", &self.origin.to_string())
            .replace("@ORIGIN_HOST@", &self.origin.ip().to_string())
            .replace("@ORIGIN_PORT@", &self.origin.port().to_string())
            .replace("@WORKERS@", &kind.workers.to_string())
            .replace("@FOLDER@", &folder.display().to_string());
        for (place, words) in self.variant(kind, folder)? {
            text = text.replace(place, &words);
        }
        Ok(Some((file, text)))
    }

    /// What stands in the places that tell the variants of a program apart.
    fn variant(&self, kind: Kind, folder: &Path) -> Result<Vec<(&'static str, String)>> {
        let shown = folder.display().to_string();
        let peers = fs::canonicalize(&self.peers).unwrap_or_default().display().to_string();
        // One worker is pinned by its process.
        let cpus = [self.place.cpu, self.second_cpu].into_iter().flatten();
        let cpus: Vec<usize> = cpus.filter(|_| kind.has_two_workers()).collect();
        let optional =
            |wanted: bool, text: &str| if wanted { text.to_owned() } else { String::new() };
        Ok(match kind.program {
            Program::Direct | Program::Relay { .. } => vec![],
            Program::Envoy => {
                vec![("@ENVOY_JWT@", kind.jwt.map(Signed::envoy).unwrap_or_default())]
            }
            Program::Haproxy { splice, fields, cache } => {
                let numbers = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
                let map = format!("cpu-map auto:1/1-2 {numbers}");
                vec![
                    ("@HAPROXY_CPUS@", optional(cpus.len() == 2, &map)),
                    (
                        "@HAPROXY_SPLICE@",
                        optional(splice, "option splice-auto\n    option splice-response"),
                    ),
                    ("@HAPROXY_FIELDS@", optional(fields, HAPROXY_ADDED)),
                    ("@HAPROXY_TLS@", optional(kind.tls, &format!("ssl crt {shown}/both.pem"))),
                    ("@SCHEME@", if kind.tls { "https" } else { "http" }.to_owned()),
                    ("@HAPROXY_CACHE@", optional(cache, HAPROXY_STORE)),
                    ("@HAPROXY_CACHED@", optional(cache, HAPROXY_USE)),
                    (
                        "@HAPROXY_JWT@",
                        kind.jwt
                            .map(|jwt| jwt.haproxy(&format!("{peers}/jwt.pem")))
                            .unwrap_or_default(),
                    ),
                ]
            }
            Program::Nginx { tuned, cache } => {
                let mask = |cpu: &usize| format!("1{}", "0".repeat(*cpu));
                let masks = cpus.iter().map(mask).collect::<Vec<_>>().join(" ");
                let affinity = format!("worker_cpu_affinity {masks};");
                let store = folder.join("cache").display().to_string();
                let nginx_store = format!("proxy_cache_path {store} keys_zone=bench:10m;");
                let [modules, lua, access] =
                    kind.jwt.map(|jwt| jwt.nginx(&peers)).unwrap_or_default();
                vec![
                    ("@NGINX_CPUS@", optional(cpus.len() == 2, &affinity)),
                    ("@NGINX_BUFFERS@", optional(tuned, NGINX_BUFFERS)),
                    ("@NGINX_TLS@", optional(kind.tls, "ssl")),
                    ("@NGINX_CERTIFICATE@", optional(kind.tls, &nginx_certificate(&shown))),
                    ("@NGINX_CACHE@", optional(cache, &nginx_store)),
                    ("@NGINX_CACHED@", optional(cache, "proxy_cache bench;")),
                    ("@NGINX_MODULES@", modules),
                    ("@NGINX_LUA@", lua),
                    ("@NGINX_ACCESS@", access),
                ]
            }
            Program::Zproxy { io, plugins } => {
                let (plugins, routes) = match kind.jwt {
                    None => self.plugins_and_routes(plugins)?,
                    Some(signed) => self.guarded(signed)?,
                };
                vec![
                    ("@IO@", io.to_owned()),
                    ("@TLS@", optional(kind.tls, &listener_tls(&shown))),
                    ("\"@PLUGINS@\"", plugins.to_string()),
                    ("\"@ROUTES@\"", routes.to_string()),
                ]
            }
        })
    }

    /// Everything behind the plugin, but for `/`.
    fn guarded(&self, signed: Signed) -> Result<(Value, Value)> {
        let path = fs::canonicalize(self.plugin("jwt"))?;
        let jwt = json!({ "path": path, "config": signed.zproxy() });
        let open = json!({ "path": "/", "match": "exact", "upstream": "origin" });
        let checked = json!({ "path": "/", "upstream": "origin", "middleware": ["jwt"] });
        Ok((json!({ "jwt": jwt }), json!([open, checked])))
    }

    fn plugins_and_routes(&self, plugins: Plugins) -> Result<(Value, Value)> {
        let stamp = || -> Result<Value> {
            let path = fs::canonicalize(self.plugin("header-stamp"))?;
            Ok(json!({ "path": path, "config": { "name": "bench" } }))
        };
        let noop = || -> Result<Value> { Ok(json!({ "path": fs::canonicalize(&self.noop)? })) };
        let route = |path: &str, chain: Vec<&str>| json!({ "path": path, "upstream": "origin", "middleware": chain });
        Ok(match plugins {
            Plugins::None => (json!({}), json!([route("/", vec![])])),
            Plugins::Noop(length) => {
                (json!({ "noop": noop()? }), json!([route("/", vec!["noop"; length])]))
            }
            Plugins::Stamp => {
                let plugins = json!({ "header-stamp": stamp()? });
                (plugins, json!([route("/", vec!["header-stamp"])]))
            }
            Plugins::Cache => {
                let cache = json!({
                    "path": fs::canonicalize(self.plugin("cache"))?,
                    "allow": { "cache": true },
                });
                (json!({ "cache": cache }), json!([route("/", vec!["cache"])]))
            }
            Plugins::Three => {
                let path = |name: &str| fs::canonicalize(self.plugin(name));
                let plugins = json!({
                    "noop": noop()?,
                    "jwt": { "path": path("jwt")?, "config": { "jwt_secret": jwt::SECRET } },
                    "header-stamp": stamp()?,
                });
                let chain = vec!["jwt", "header-stamp", "noop"];
                (plugins, json!([route("/", vec![]), route("/three", chain)]))
            }
        })
    }
}

/// One worker's ticket keys are all that is needed; the cache of sessions would only cost.
fn nginx_certificate(folder: &str) -> String {
    format!(
        "ssl_certificate {folder}/cert.pem;\n        ssl_certificate_key {folder}/key.pem;\n        \
         ssl_protocols TLSv1.2 TLSv1.3;"
    )
}

/// TLS of ZProxy's listener.
fn listener_tls(folder: &str) -> String {
    let (cert, key) = (format!("{folder}/cert.pem"), format!("{folder}/key.pem"));
    format!(", \"tls\": {}", json!({ "certificates": [{ "cert_path": cert, "key_path": key }] }))
}

/// What ZProxy adds to every message besides the fields of the plain variant, but for `traceparent`,
/// for which HAProxy has no cheap way.
const HAPROXY_ADDED: &str = "\
http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request add-header Via \"1.1 haproxy\"
    http-response add-header Via \"1.1 haproxy\"
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id";

/// HAProxy's cache, large enough for everything that is asked for.
const HAPROXY_STORE: &str = "\
cache bench
    total-max-size 64
    max-object-size 1000000
    max-age 3600";
const HAPROXY_USE: &str = "\
http-request cache-use bench
    http-response cache-store bench";

/// Larger than any small response, and few system calls for a large one.
const NGINX_BUFFERS: &str = "\
proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            proxy_busy_buffers_size 128k;";

/// A port that was free a moment ago; should another take it, the check of listeners tells.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn missing_program(program: &str, flag: &str) -> Option<String> {
    let run = Command::new(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_err().then(|| format!("{program} is not installed; run benches/setup.sh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> Lab {
        Lab {
            scratch: std::env::temp_dir(),
            origin: SocketAddr::from(([127, 0, 0, 1], 4_000)),
            place: Place { cpu: Some(0), fifo: false },
            second_cpu: Some(1),
            zproxy: "target/release/zproxy".into(),
            noop: "Cargo.toml".into(),
            plugins: ".".into(),
            envoy: "envoy".into(),
            peers: "peers".into(),
        }
    }

    fn config(kind: Kind) -> String {
        lab().config(kind, 81, Path::new("/x")).unwrap().unwrap().1
    }

    #[test]
    fn a_chain_lists_its_plugin_as_often_as_it_is_long() {
        let config: Value = serde_json::from_str(&config(EPOLL_4)).unwrap();

        assert_eq!(config["routes"][0]["middleware"], json!(["noop", "noop", "noop", "noop"]));
        assert_eq!(config["listeners"][0]["address"], "127.0.0.1:81");
        assert_eq!(config["workers"]["io"], "epoll");
        assert_eq!(config["upstreams"]["origin"]["servers"][0]["address"], "127.0.0.1:4000");
        assert!(config["plugins"]["noop"]["path"].as_str().unwrap().ends_with("Cargo.toml"));
    }

    #[test]
    fn no_template_keeps_a_place_to_fill() {
        let plain =
            [HAPROXY, HAPROXY_FIELDS, HAPROXY_SPLICE, NGINX, NGINX_TUNED, ENVOY, EPOLL, URING];
        let two = plain.map(|kind| kind.two_workers("two"));
        for kind in plain.into_iter().chain(two) {
            let text = config(kind).replace("\"@type\"", "");

            assert!(!text.contains('@'), "{text}");
            assert!(text.contains("4000"), "{text}");
        }
    }

    #[test]
    fn variants_differ_where_they_should() {
        assert!(
            !config(HAPROXY).contains("splice-response")
                && config(HAPROXY_SPLICE).contains("splice-response")
        );
        assert!(!config(HAPROXY).contains("Via") && config(HAPROXY_FIELDS).contains("Via"));
        assert!(!config(NGINX).contains("8 64k") && config(NGINX_TUNED).contains("8 64k"));
        assert!(config(HAPROXY.two_workers("two")).contains("cpu-map auto:1/1-2 0 1"));
        assert!(config(NGINX.two_workers("two")).contains("worker_cpu_affinity 1 10;"));
        assert!(!config(NGINX).contains("affinity"));
    }

    #[test]
    fn only_takes_names_and_families() {
        let only = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).into()).collect() };

        assert!(EPOLL_4.is_among(&only(&["zproxy"])));
        assert!(EPOLL_4.is_among(&only(&["zproxy-epoll"])));
        assert!(!EPOLL.is_among(&only(&["zproxy-epoll+4"])));
        assert!(!NGINX.is_among(&only(&["haproxy", "ng"])));
        assert!(NGINX.is_among(&[]));
    }
}

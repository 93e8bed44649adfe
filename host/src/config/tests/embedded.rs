//! The configuration of a gateway that was started without one.

use super::*;

#[test]
fn every_plugin_of_the_folder_can_be_tried() {
    let fake = Fake::default().file("/p/jwt.wasm", "").file("/p/header_stamp.wasm", "");
    let mut overrides = Overrides::default();
    overrides.plugins_dir("--plugins", "/p");
    overrides.listen("--listen", "0.0.0.0:81");

    let (_, settings) = load_embedded(&overrides, &fake, &["mine"]).unwrap();

    let routes: Vec<_> = settings
        .routes
        .iter()
        .map(|route| (route.path.as_str(), route.rewrite.strip_prefix.as_deref()))
        .collect();
    assert_eq!(
        routes,
        [
            ("/", None),
            ("/echo", None),
            ("/try/cache", Some("/try/cache")),
            ("/try/header-stamp", Some("/try/header-stamp")),
            ("/try/jwt", Some("/try/jwt")),
            ("/try/mine", Some("/try/mine")),
            ("/try/rate-limit", Some("/try/rate-limit")),
        ]
    );
    assert_eq!(settings.routes[0].matching, Matching::Exact);
    assert_eq!(&*settings.routes[4].chain[0].config, r#"{"jwt_secret":"your-256-bit-secret"}"#);
    let Target::Respond { body, .. } = &settings.routes[0].target else { panic!() };
    let page = std::str::from_utf8(body).unwrap();
    for part in [
        concat!("ZProxy ", env!("CARGO_PKG_VERSION")),
        "/echo ",
        "/try/header-stamp/",
        "Plugins found: cache, header-stamp, jwt, mine, rate-limit",
        "curl -i http://127.0.0.1:81/echo\n",
        "curl -i http://127.0.0.1:81/try/jwt/hello -H 'Authorization: Bearer eyJhbGciOiJIUzI1NiI",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
}

#[test]
fn without_a_folder_there_are_the_echo_and_what_is_built_in() {
    let (_, settings) = load_embedded(&Overrides::default(), &Fake::default(), &[]).unwrap();

    let built_in = settings.plugins.iter().filter(|one| one.source == PluginSource::BuiltIn);
    assert_eq!(built_in.count(), built_in_names().count());
    assert_eq!(settings.routes.len(), 2 + built_in_names().count());
    assert_eq!(settings.listeners[0].address, Address::Tcp("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(settings.admin.unwrap().address, Address::Tcp("127.0.0.1:9901".parse().unwrap()));
    assert!(matches!(settings.upstreams[0].kind, UpstreamKind::Echo));
}

/// The page is made before the port is chosen.
#[test]
fn a_port_that_is_not_known_yet_is_not_shown_as_0() {
    let mut overrides = Overrides::default();
    overrides.listen("--listen", "127.0.0.1:0");

    let (_, settings) = load_embedded(&overrides, &Fake::default(), &[]).unwrap();

    let Target::Respond { body, .. } = &settings.routes[0].target else { panic!() };
    let page = std::str::from_utf8(body).unwrap();
    assert!(page.contains("curl -i http://127.0.0.1:PORT/echo\n"), "{page}");
    assert!(page.contains("listening on"), "{page}");
}

#[test]
fn a_flag_replaces_a_plugins_demo_configuration() {
    let fake = Fake::default().file("/p/jwt.wasm", "");
    let mut overrides = Overrides::default();
    overrides.plugins_dir("--plugins", "/p");
    overrides.set("plugins.jwt.config={\"jwt_secret\":\"mine\"}").unwrap();

    let (_, settings) = load_embedded(&overrides, &fake, &[]).unwrap();

    assert_eq!(&*settings.routes[3].chain[0].config, r#"{"jwt_secret":"mine"}"#);
}

#[test]
fn a_missing_folder_and_a_wrong_flag_are_named() {
    let mut overrides = Overrides::default();
    overrides.plugins_dir("ZPROXY_PLUGINS", "/none");
    overrides.listen("--listen", "8080");

    let problems = load_embedded(&overrides, &Fake::default(), &[]).unwrap_err();

    assert_eq!(
        problems.to_string(),
        "ZPROXY_PLUGINS: plugins_dir: cannot read the folder `/none`: it does not exist; \
         give the folder that holds the `*.wasm` files\n\
         --listen: listeners[0].address: `8080` is not an address to listen on; write \
         \"0.0.0.0:8080\" for every interface, or \"127.0.0.1:8080\" for this machine"
    );
}

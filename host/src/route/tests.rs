use proptest::prelude::*;

use super::*;
use crate::config::Matching::{Exact, Prefix};
use crate::config::{Matching, Target};

/// A route as the tests write it.
#[derive(Clone, Debug)]
struct Sketch {
    hosts: Vec<&'static str>,
    path: String,
    matching: Matching,
    methods: Vec<&'static str>,
    priority: i32,
}

fn on(path: &str, matching: Matching) -> Sketch {
    Sketch { hosts: vec![], path: path.into(), matching, methods: vec![], priority: 0 }
}

impl Sketch {
    fn hosts(mut self, hosts: &[&'static str]) -> Self {
        self.hosts = hosts.to_vec();
        self
    }

    fn methods(mut self, methods: &[&'static str]) -> Self {
        self.methods = methods.to_vec();
        self
    }

    fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }
}

fn route(sketch: &Sketch) -> config::Route {
    let host = |host: &&str| match host.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None => HostPattern::Exact((*host).into()),
    };
    config::Route {
        name: sketch.path.as_str().into(),
        hosts: sketch.hosts.iter().map(host).collect(),
        path: sketch.path.clone(),
        matching: sketch.matching,
        methods: sketch.methods.iter().map(|method| (*method).into()).collect(),
        priority: sketch.priority,
        target: Target::Upstream(0),
        rewrite: config::Rewrite::default(),
        chain: vec![],
        request_timeout: None,
        idle_timeout: None,
        body_bytes_max: None,
        websocket: config::WebSocket::default(),
    }
}

fn router(sketches: &[Sketch]) -> Router {
    Router::new(&sketches.iter().map(route).collect::<Vec<_>>()).unwrap()
}

fn find(router: &Router, host: Option<&str>, path: &str, method: &str) -> Found {
    router.find(host, path, method, &mut Params::default())
}

/// Index of the route for a GET, or `None`.
fn get(router: &Router, path: &str) -> Option<usize> {
    match find(router, None, path, "GET") {
        Found::Route { index } => Some(index),
        _ => None,
    }
}

#[test]
fn a_prefix_ends_at_a_border_between_segments() {
    for written in ["/api", "/api/"] {
        let router = router(&[on(written, Prefix)]);

        for path in ["/api", "/api/", "/api/x", "/api//x"] {
            assert_eq!(get(&router, path), Some(0), "{path}");
        }
        for path in ["/apix", "/ap", "/", "//api", "/API"] {
            assert_eq!(get(&router, path), None, "{path}");
        }
    }
}

#[test]
fn the_root_prefix_takes_everything_and_the_exact_root_only_itself() {
    let router = router(&[on("/", Prefix), on("/", Exact)]);

    assert_eq!(get(&router, "/"), Some(1));
    for path in ["//", "/a", "/a/b/"] {
        assert_eq!(get(&router, path), Some(0), "{path}");
    }
    assert_eq!(get(&router, "*"), None);
    assert_eq!(get(&router, ""), None);
}

#[test]
fn an_exact_path_is_the_whole_path() {
    let router = router(&[on("/a/b", Exact), on("/c/", Exact)]);

    assert_eq!(get(&router, "/a/b"), Some(0));
    assert_eq!(get(&router, "/c/"), Some(1));
    for path in ["/a", "/a/b/", "/a/b/c", "/c", "/c//"] {
        assert_eq!(get(&router, path), None, "{path}");
    }
}

#[test]
fn the_most_specific_path_wins_whatever_the_order() {
    let mut sketches = vec![
        on("/a/b", Exact),
        on("/a/b", Prefix),
        on("/a/{x}", Exact),
        on("/a/{x}/c", Prefix),
        on("/a/{*rest}", Prefix),
        on("/a", Prefix),
        on("/", Prefix),
    ];
    for turn in 0..sketches.len() {
        sketches.rotate_left(usize::from(turn > 0));
        let router = router(&sketches);
        let named = |path: &str| {
            let index = get(&router, path).unwrap();
            (sketches[index].path.as_str(), sketches[index].matching)
        };

        assert_eq!(named("/a/b"), ("/a/b", Exact));
        assert_eq!(named("/a/b/c"), ("/a/b", Prefix));
        assert_eq!(named("/a/z"), ("/a/{x}", Exact));
        assert_eq!(named("/a/z/c/d"), ("/a/{x}/c", Prefix));
        assert_eq!(named("/a/z/d"), ("/a/{*rest}", Prefix));
        assert_eq!(named("/a/"), ("/a/{*rest}", Prefix));
        assert_eq!(named("/a"), ("/a", Prefix));
        assert_eq!(named("/b"), ("/", Prefix));
    }
}

#[test]
fn parameters_are_found_in_the_path() {
    let router = router(&[on("/u/{id}/f/{*rest}", Prefix), on("/u/{user}/{what}", Exact)]);
    let values = |path: &str| {
        let mut params = Params::default();
        match router.find(None, path, "GET", &mut params) {
            Found::Route { index } => {
                let names = router.parameters(index).iter().enumerate();
                let value = |place| params.get(place, path);
                names.map(|(place, name)| format!("{name}={}", value(place))).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(values("/u/7/f/a/b"), ["id=7", "rest=a/b"]);
    assert_eq!(values("/u/7/f/"), ["id=7", "rest="]);
    assert_eq!(values("/u/7/f"), ["user=7", "what=f"]);
    assert_eq!(get(&router, "/u//f/a"), None);
}

#[test]
fn hosts_come_before_paths() {
    let router = router(&[
        on("/deep/er", Prefix),
        on("/", Prefix).hosts(&["*.example.com"]),
        on("/", Prefix).hosts(&["*.eu.example.com"]),
        on("/", Prefix).hosts(&["a.eu.example.com", "[::1]"]),
        on("/only", Prefix).hosts(&["b.eu.example.com"]),
    ]);
    let find = |host: Option<&str>, path: &str| match find(&router, host, path, "GET") {
        Found::Route { index } => Some(index),
        _ => None,
    };

    assert_eq!(find(Some("A.eu.example.com.:80"), "/deep/er"), Some(3));
    assert_eq!(find(Some("x.y.eu.example.com"), "/deep/er"), Some(2));
    assert_eq!(find(Some("x.example.com"), "/deep/er"), Some(1));
    assert_eq!(find(Some("[0::1]:8080"), "/"), Some(3));
    // Neither the domain itself nor a name that merely ends like it.
    assert_eq!(find(Some("example.com"), "/deep/er"), Some(0));
    assert_eq!(find(Some("notexample.com"), "/deep/er"), Some(0));
    assert_eq!(find(Some(".example.com"), "/deep/er"), Some(0));
    assert_eq!(find(None, "/deep/er"), Some(0));
    assert_eq!(find(None, "/"), None);
    // A host without a route for the path leaves the request to less specific ones.
    assert_eq!(find(Some("b.eu.example.com"), "/only"), Some(4));
    assert_eq!(find(Some("b.eu.example.com"), "/else"), Some(2));
}

#[test]
fn priority_then_order_decide_among_equals() {
    let router = router(&[
        on("/{a}", Prefix),
        on("/{b}", Prefix).priority(1),
        on("/{c}/", Prefix).priority(1),
    ]);

    assert_eq!(get(&router, "/x"), Some(1));
}

#[test]
fn routes_of_one_pattern_share_the_methods() {
    let router = router(&[
        on("/a", Exact).methods(&["POST"]),
        on("/a", Exact).methods(&["GET", "PURGE"]),
        on("/a", Exact).methods(&["BREW", "POST"]),
    ]);

    assert_eq!(get(&router, "/a"), Some(1));
    assert!(matches!(find(&router, None, "/a", "HEAD"), Found::Route { index: 1 }));
    assert!(matches!(find(&router, None, "/a", "POST"), Found::Route { index: 0 }));
    assert!(matches!(find(&router, None, "/a", "BREW"), Found::Route { index: 2 }));
    let allow = "GET, HEAD, POST, PURGE, BREW".to_owned();
    assert_eq!(find(&router, None, "/a", "PATCH"), Found::MethodNotAllowed { allow });
    assert_eq!(find(&router, None, "/c", "PATCH"), Found::None);
}

/// A route with a guard in its chain would be walked around by a method that it does not list.
#[test]
fn a_method_that_a_route_does_not_take_never_reaches_a_less_specific_one() {
    let router = router(&[
        on("/", Prefix),
        on("/users", Prefix).methods(&["GET"]),
        on("/users/me", Exact).methods(&["PUT"]),
        on("/users/{id}", Prefix).methods(&["POST"]),
        on("/", Prefix).hosts(&["h"]).methods(&["DELETE"]),
    ]);
    let allow = |host, path: &str, method: &str| match find(&router, host, path, method) {
        Found::MethodNotAllowed { allow } => allow,
        other => panic!("{path}: {other:?}"),
    };

    assert_eq!(allow(None, "/users", "DELETE"), "GET, HEAD");
    assert_eq!(allow(None, "/users/me", "POST"), "PUT");
    assert_eq!(allow(None, "/users/7", "GET"), "POST");
    assert_eq!(allow(Some("h"), "/users", "GET"), "DELETE");
    assert!(matches!(find(&router, None, "/user", "DELETE"), Found::Route { index: 0 }));
}

#[test]
fn an_unusable_route_is_named() {
    let routes = [route(&on("/a", Exact)), route(&on("/{x", Exact))];
    assert_eq!(
        Router::new(&routes).unwrap_err().to_string(),
        "routes[1] `/{x`: `{x`: a parameter is a whole segment, `{name}` or `{*rest}`; \
         write a brace as %7B or %7D"
    );
    let routes = [route(&on("/a", Exact).hosts(&[""]))];
    assert_eq!(Router::new(&routes).unwrap_err().problem, PatternError::Host(String::new()));
}

/// More literals than are compared one by one.
#[test]
fn many_routes_are_each_found() {
    let sketches: Vec<Sketch> = (0..1000).map(|n| on(&format!("/s{n}/x"), Prefix)).collect();
    let router = router(&sketches);

    for n in 0..1000 {
        assert_eq!(get(&router, &format!("/s{n}/x/y")), Some(n));
        assert_eq!(get(&router, &format!("/s{n}/y")), None);
    }
}

/// What the router must do, the slow way: try every route, sort by the rules.
mod reference {
    use super::*;

    /// How a pattern fits a path: kinds of its segments, and the parameters. Larger is better.
    fn fit<'p>(sketch: &Sketch, path: &'p str) -> Option<(Vec<u8>, Vec<&'p str>)> {
        let (mut kinds, mut values) = (Vec::new(), Vec::new());
        let wildcard = sketch.path.contains("{*");
        let prefix = sketch.matching == Prefix && !wildcard;
        let written = if prefix { sketch.path.trim_end_matches('/') } else { &sketch.path };
        let mut rest = Some(&path[1..]);
        for segment in written.split('/').skip(1) {
            let here = rest?;
            let (text, after) = match here.split_once('/') {
                Some((text, after)) => (text, Some(after)),
                None => (here, None),
            };
            if segment.starts_with("{*") {
                kinds.push(2);
                values.push(here);
                return Some((kinds, values));
            } else if segment.starts_with('{') {
                if text.is_empty() {
                    return None;
                }
                kinds.push(3);
                values.push(text);
            } else {
                if text != segment {
                    return None;
                }
                kinds.push(4);
            }
            rest = after;
        }
        match (prefix, rest) {
            (false, Some(_)) => None,
            (false, None) => Some(([kinds, vec![1]].concat(), values)),
            (true, _) => Some(([kinds, vec![0]].concat(), values)),
        }
    }

    fn host_rank(sketch: &Sketch, host: Option<&str>) -> Option<usize> {
        if sketch.hosts.is_empty() {
            return Some(0);
        }
        let host = host?;
        let rank = |pattern: &&str| match pattern.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix).then_some(suffix.len()),
            None => (*pattern == host).then_some(1000),
        };
        sketch.hosts.iter().filter_map(rank).max()
    }

    pub(super) fn find<'p>(
        sketches: &[Sketch],
        host: Option<&str>,
        path: &'p str,
        method: &str,
    ) -> Result<(usize, Vec<&'p str>), Vec<&'static str>> {
        let mut fits: Vec<_> = sketches
            .iter()
            .enumerate()
            .filter_map(|(index, sketch)| {
                let rank = host_rank(sketch, host)?;
                let (kinds, values) = fit(sketch, path)?;
                Some(((rank, kinds, sketch.priority, std::cmp::Reverse(index)), values))
            })
            .collect();
        fits.sort_by(|a, b| b.0.cmp(&a.0));
        // Only those as specific as the best share its methods.
        let best = fits.first().map(|(key, _)| (key.0, key.1.clone()));
        fits.retain(|(key, _)| {
            best.as_ref().is_some_and(|best| (key.0, &key.1) == (best.0, &best.1))
        });
        let takes = |index: usize| {
            let methods = &sketches[index].methods;
            methods.is_empty()
                || methods.contains(&method)
                || (method == "HEAD" && methods.contains(&"GET"))
        };
        let taken = fits.iter().find(|(key, _)| takes(key.3.0));
        taken.map(|(key, values)| (key.3.0, values.clone())).ok_or_else(|| {
            fits.iter().flat_map(|(key, _)| sketches[key.3.0].methods.clone()).collect()
        })
    }
}

fn any_sketch() -> impl Strategy<Value = Sketch> {
    let segment = prop::sample::select(vec!["a", "b", "ab", "", "{}", "{}"]);
    let hosts = prop::sample::subsequence(vec!["x.y", "z.x.y", "*.y", "*.x.y", "h"], 0..=2);
    let methods = prop::sample::subsequence(vec!["GET", "POST", "PURGE", "HEAD"], 0..=2);
    (
        prop::collection::vec(segment, 1..5),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(vec![]), hosts],
        prop_oneof![Just(vec![]), methods],
        0..3,
    )
        .prop_map(|(segments, wildcard, exact, hosts, methods, priority)| {
            let mut path = String::new();
            for (place, segment) in segments.iter().enumerate() {
                path += "/";
                path += &segment.replace("{}", &format!("{{p{place}}}"));
            }
            if wildcard {
                path += "/{*rest}";
            }
            // Only one slash is left out at the end of a prefix; the reference trims them all.
            while path.ends_with("//") {
                path.pop();
            }
            let matching = if exact { Exact } else { Prefix };
            Sketch { hosts, path, matching, methods, priority }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_router_agrees_with_the_reference(
        sketches in prop::collection::vec(any_sketch(), 0..24),
        host in prop::sample::select(vec![None, Some("x.y"), Some("z.x.y"), Some("q.z.x.y"), Some("y"), Some("h")]),
        path in "(/(a|b|ab|c|)){1,5}",
        method in prop::sample::select(vec!["GET", "HEAD", "POST", "PURGE", "PUT"]),
    ) {
        let router = router(&sketches);

        let mut params = Params::default();
        let found = router.find(host, &path, method, &mut params);
        match (found, reference::find(&sketches, host, &path, method)) {
            (Found::Route { index }, Ok((expected, values))) => {
                prop_assert_eq!(index, expected);
                let found: Vec<&str> = (0..params.len()).map(|n| params.get(n, &path)).collect();
                prop_assert_eq!(found, values);
            }
            (Found::MethodNotAllowed { allow }, Err(mut expected)) => {
                if expected.contains(&"GET") {
                    expected.push("HEAD");
                }
                expected.sort_unstable();
                expected.dedup();
                let mut named: Vec<&str> = allow.split(", ").collect();
                named.sort_unstable();
                prop_assert_eq!(named, expected);
            }
            (Found::None, Err(expected)) => prop_assert!(expected.is_empty()),
            (found, expected) => prop_assert!(false, "{:?} instead of {:?}", found, expected),
        }
    }
}

//! Host + path + method → route.
//!
//! Everything is decided at load: [`Router::new`] builds a tree of segments per host, and
//! [`Router::find`] walks it without allocating. Which of several matching routes is taken:
//!
//! 1. by host: the name itself, then `*.` with the longest suffix, then routes for any host;
//! 2. by path, segment by segment from the left: a literal, then `{name}`, then `{*rest}`, then
//!    the end of a prefix. So an exact path comes first, then the longest literal prefix;
//! 3. by `priority`, then by order in the file.
//!
//! Routes with the same host, path and kind of match share the methods: the first that takes the
//! request's is taken. If none does the answer is 405, although a less specific route might take it:
//! what guards a path guards it for every method.
//!
//! `{name}` takes one segment that is not empty, `{*rest}` what is left after its slash, maybe
//! nothing. A prefix ends at a border between segments: `/api`, also written `/api/`, takes
//! `/api`, `/api/` and `/api/x`, and not `/apix`.
//!
//! Not here: what becomes of the request then (`proxy`), conditions on fields (not built yet).

mod host;
mod method;
pub mod path;
pub mod pattern;
pub mod rewrite;
mod tree;

pub use path::{PathError, normalize};
pub use pattern::{PARAMETERS_MAX, PatternError};
pub use rewrite::{Redirect, Rewrite};

use std::collections::HashMap;

use crate::config::{self, HostPattern};
use host::HOST_BYTES_MAX;
use method::{Allow, Method, Methods};
use pattern::Pattern;
use tree::Tree;

/// Finds routes.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Route>,
    /// Index into `trees` by host.
    exact_hosts: HashMap<Box<str>, usize>,
    /// Index into `trees` by the host's end, from its dot on.
    suffix_hosts: HashMap<Box<str>, usize>,
    /// Whether some suffix has this length: spares a lookup for every dot of a hostile host.
    suffix_lengths: [bool; HOST_BYTES_MAX + 1],
    trees: Vec<Tree>,
    any_host: Tree,
}

#[derive(Debug)]
struct Route {
    methods: Methods,
    parameters: Vec<Box<str>>,
}

/// A route that the router cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("routes[{index}] `{name}`: {problem}")]
pub struct RouterError {
    /// Its place in the file.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub problem: PatternError,
}

/// What [`Router::find`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A route.
    Route {
        /// Its place among the routes that the router was made from.
        index: usize,
    },
    /// Routes for this host and path, none of the most specific for this method.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// No route.
    None,
}

/// Where the parameters of a route are in the path that was routed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params {
    spans: [(u32, u32); PARAMETERS_MAX],
    count: usize,
}

impl Params {
    /// The value of a parameter by its place among [`Router::parameters`]; `path` is the one that
    /// was routed. Empty for a parameter that is not there.
    pub fn get<'p>(&self, index: usize, path: &'p str) -> &'p str {
        let (start, end) = self.spans().get(index).copied().unwrap_or_default();
        path.get(start as usize..end as usize).unwrap_or_default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn spans(&self) -> &[(u32, u32)] {
        &self.spans[..self.count]
    }

    fn push(&mut self, start: usize, end: usize) {
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) else { return };
        // Patterns with more parameters are refused at load.
        if let Some(span) = self.spans.get_mut(self.count) {
            *span = (start, end);
            self.count += 1;
        }
    }

    fn pop(&mut self) {
        self.count = self.count.saturating_sub(1);
    }
}

impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        self.spans() == other.spans()
    }
}

impl Eq for Params {}

impl Router {
    /// Builds a router, or names the first route that it cannot use.
    pub fn new(routes: &[config::Route]) -> Result<Self, RouterError> {
        let mut router = Self {
            routes: Vec::with_capacity(routes.len()),
            exact_hosts: HashMap::new(),
            suffix_hosts: HashMap::new(),
            suffix_lengths: [false; HOST_BYTES_MAX + 1],
            trees: Vec::new(),
            any_host: Tree::new(),
        };
        let mut patterns = Vec::with_capacity(routes.len());
        for (index, route) in routes.iter().enumerate() {
            let pattern = Pattern::parse(&route.path).map_err(|e| error(index, route, e))?;
            let methods = Methods::new(&route.methods);
            router.routes.push(Route { methods, parameters: pattern.names.clone() });
            patterns.push(pattern);
        }
        // Trees keep the order of insertion among equals.
        let mut order: Vec<usize> = (0..routes.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(routes[*index].priority));
        for index in order {
            let (route, pattern) = (&routes[index], &patterns[index]);
            if route.hosts.is_empty() {
                router.any_host.insert(pattern, route.matching, index);
            }
            for host in &route.hosts {
                let tree = router.tree_of(host).map_err(|e| error(index, route, e))?;
                tree.insert(pattern, route.matching, index);
            }
        }
        Ok(router)
    }

    /// The route for a request: `host` as the client sent it, with or without port; `path`
    /// normalized and without query; `method` as received. `params` learns where the route's parameters are
    /// in the path.
    pub fn find(&self, host: Option<&str>, path: &str, method: &str, params: &mut Params) -> Found {
        params.count = 0;
        if !path.starts_with('/') {
            return Found::None;
        }
        let Some(list) = self.most_specific(host, path, params) else { return Found::None };
        let wanted = Method::of(method);
        match list.iter().find(|index| self.routes[**index].methods.allow(wanted)) {
            Some(index) => Found::Route { index: *index },
            None => Found::MethodNotAllowed { allow: self.allow(list) },
        }
    }

    /// Whether hosts make a difference.
    pub fn reads_hosts(&self) -> bool {
        !self.trees.is_empty()
    }

    /// Names of a route's parameters, in the order of [`Params`]; the wildcard's comes last.
    pub fn parameters(&self, index: usize) -> &[Box<str>] {
        self.routes.get(index).map_or(&[], |route| &route.parameters)
    }

    /// The methods of all these routes.
    fn allow(&self, list: &[usize]) -> String {
        let mut allow = Allow::default();
        for index in list {
            allow.add(&self.routes[*index].methods);
        }
        allow.value()
    }

    /// The routes of the most specific pattern that fits host and path, first choice first.
    fn most_specific(
        &self,
        host: Option<&str>,
        path: &str,
        params: &mut Params,
    ) -> Option<&[usize]> {
        if !self.trees.is_empty() {
            let mut buffer = [0; HOST_BYTES_MAX];
            if let Some(host) = host.and_then(|host| host::canonical(host, &mut buffer)) {
                for tree in self.trees_for(host) {
                    if let Some(list) = tree.find(path, params) {
                        return Some(list);
                    }
                }
            }
        }
        self.any_host.find(path, params)
    }

    fn trees_for(&self, host: &str) -> impl Iterator<Item = &Tree> {
        let exact = self.exact_hosts.get(host);
        let suffixes = memchr::memchr_iter(b'.', host.as_bytes())
            .map(|dot| &host[dot..])
            .filter(|suffix| suffix.len() < host.len() && self.suffix_lengths[suffix.len()])
            .filter_map(|suffix| self.suffix_hosts.get(suffix));
        exact.into_iter().chain(suffixes).map(|index| &self.trees[*index])
    }

    /// The tree for a host, made when it is not there yet.
    fn tree_of(&mut self, host: &HostPattern) -> Result<&mut Tree, PatternError> {
        let (HostPattern::Exact(text) | HostPattern::Suffix(text)) = host;
        let name = text.strip_prefix('.').unwrap_or(text);
        let bad = || PatternError::Host(text.clone());
        let name = host::canonical_pattern(name).ok_or_else(bad)?;
        let new = self.trees.len();
        let index = match host {
            HostPattern::Exact(_) => *self.exact_hosts.entry(name.into()).or_insert(new),
            HostPattern::Suffix(_) => {
                let length = self.suffix_lengths.get_mut(name.len() + 1).ok_or_else(bad)?;
                *length = true;
                *self.suffix_hosts.entry(format!(".{name}").into()).or_insert(new)
            }
        };
        if index == new {
            self.trees.push(Tree::new());
        }
        Ok(&mut self.trees[index])
    }
}

fn error(index: usize, route: &config::Route, problem: PatternError) -> RouterError {
    RouterError { index, name: route.name.to_string(), problem }
}

#[cfg(test)]
mod tests;

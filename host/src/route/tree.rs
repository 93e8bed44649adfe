//! The paths of all routes of one host, as a tree of segments.
//!
//! ```text
//! /            ── api ── users ── {id}        literals first, then the parameter, then
//!              │         └─ (prefix)          the wildcard, then the node's own prefix:
//!              └─ {*rest}                     the order of the walk is the order of precedence
//! ```
//!
//! The walk goes back when a branch leads nowhere, so that `/a/{x}/c` is found although `/a/b`
//! is there too. It visits no more nodes than the routes have, whatever the request.
//!
//! Not here: hosts and methods (`route`).

use std::collections::HashMap;

use memchr::memchr;

use super::Params;
use super::pattern::{Pattern, Segment};
use crate::config::Matching;

/// Up to this many literal children are compared one by one: most differ in length already, which
/// is cheaper than hashing the segment.
const SCANNED_MAX: usize = 8;

/// The paths of all routes of one host.
#[derive(Debug)]
pub(super) struct Tree {
    /// The first is the root.
    nodes: Vec<Node>,
}

/// What follows a sequence of segments. The lists hold indexes of routes, first choice first.
#[derive(Debug, Default)]
struct Node {
    literals: Literals,
    parameter: Option<usize>,
    /// Routes that end here.
    exact: Vec<usize>,
    /// Routes that take at least one further segment, which may be empty.
    wildcard: Vec<usize>,
    /// Routes that take whatever follows, or nothing.
    prefix: Vec<usize>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Adds a route; the first added is the first choice among equals.
    pub(super) fn insert(&mut self, pattern: &Pattern, matching: Matching, route: usize) {
        let prefix = matching == Matching::Prefix && !pattern.wildcard;
        let mut segments = pattern.segments.as_slice();
        // The prefix `/a/` means `/a`, and `/` means everything.
        if let ([before @ .., Segment::Literal(last)], true) = (segments, prefix)
            && last.is_empty()
        {
            segments = before;
        }
        let end = segments.iter().fold(0, |node, segment| self.child(node, segment));
        let node = &mut self.nodes[end];
        let list = match () {
            () if pattern.wildcard => &mut node.wildcard,
            () if prefix => &mut node.prefix,
            () => &mut node.exact,
        };
        list.push(route);
    }

    fn child(&mut self, node: usize, segment: &Segment) -> usize {
        let next = self.nodes.len();
        let known = match segment {
            Segment::Literal(text) => self.nodes[node].literals.get_or_insert(text, next),
            Segment::Parameter => *self.nodes[node].parameter.get_or_insert(next),
        };
        if known == next {
            self.nodes.push(Node::default());
        }
        known
    }

    /// The routes of the most specific pattern that fits `path`, first choice first, and their
    /// `params`. `path` begins with `/`.
    pub(super) fn find(&self, path: &str, params: &mut Params) -> Option<&[usize]> {
        self.find_from(&self.nodes[0], path.as_bytes(), Some(1), params)
    }

    /// `from` is where the next segment begins, `None` when there is none.
    fn find_from<'t>(
        &'t self,
        node: &'t Node,
        path: &[u8],
        from: Option<usize>,
        params: &mut Params,
    ) -> Option<&'t [usize]> {
        let Some(from) = from else {
            return some(&node.exact).or_else(|| some(&node.prefix));
        };
        let slash = memchr(b'/', &path[from..]).map(|length| from + length);
        let end = slash.unwrap_or(path.len());
        let next = slash.map(|slash| slash + 1);
        if let Some(child) = node.literals.get(&path[from..end])
            && let Some(list) = self.find_from(&self.nodes[child], path, next, params)
        {
            return Some(list);
        }
        if let (Some(child), true) = (node.parameter, end > from) {
            params.push(from, end);
            if let Some(list) = self.find_from(&self.nodes[child], path, next, params) {
                return Some(list);
            }
            params.pop();
        }
        if let Some(list) = some(&node.wildcard) {
            params.push(from, path.len());
            return Some(list);
        }
        some(&node.prefix)
    }
}

fn some(list: &[usize]) -> Option<&[usize]> {
    Some(list).filter(|list| !list.is_empty())
}

/// Children of a node by their segment.
#[derive(Debug)]
enum Literals {
    Scanned(Vec<(Box<[u8]>, usize)>),
    Table(HashMap<Box<[u8]>, usize>),
}

impl Default for Literals {
    fn default() -> Self {
        Self::Scanned(Vec::new())
    }
}

impl Literals {
    fn get(&self, segment: &[u8]) -> Option<usize> {
        match self {
            Self::Scanned(list) => {
                list.iter().find(|(text, _)| **text == *segment).map(|(_, child)| *child)
            }
            Self::Table(table) => table.get(segment).copied(),
        }
    }

    fn get_or_insert(&mut self, segment: &str, new: usize) -> usize {
        if let Some(known) = self.get(segment.as_bytes()) {
            return known;
        }
        if let Self::Scanned(list) = self
            && list.len() == SCANNED_MAX
        {
            *self = Self::Table(std::mem::take(list).into_iter().collect());
        }
        match self {
            Self::Scanned(list) => list.push((segment.as_bytes().into(), new)),
            Self::Table(table) => {
                table.insert(segment.as_bytes().into(), new);
            }
        }
        new
    }
}

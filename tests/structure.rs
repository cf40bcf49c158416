//! The files of `src/` import each other in one direction: no circles, and no arrow up the order of the
//! stages. A file imports another when its code names something that is defined there, also by way of a
//! re-export; tests and documentation do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{Attribute, Item, ItemUse, UseTree, Visibility, visit::Visit};

/// The parts of the crate from the ground up. A part imports only from those before it. A part of another
/// part is listed by its path.
const STAGES: &[&str] = &[
    "debug",
    "sync",
    "permits",
    "alarm",
    "rng",
    "text",
    "error",
    "instance",
    "task",
    "ambient",
    "attempt",
    "backoff",
    "deadline",
    "window",
    "probe",
    "classify",
    "service",
    "connect",
    "catalog",
    "endpoint",
    "registry",
    "discover",
    "balance",
    "telemetry",
    "client",
    "server",
    "telemetry::status",
    "docs",
];

#[test]
fn no_two_files_import_each_other_in_a_circle() {
    let house = House::read();
    let circles = house.circles();
    let told: Vec<_> = circles.iter().map(|circle| house.tell(circle)).collect();
    assert!(circles.is_empty(), "circles:\n{}", told.join("\n"));
}

#[test]
fn no_file_imports_from_a_later_stage() {
    let stage = |file: &str| {
        let holds = |stage: &str| {
            let rest = file.strip_prefix(stage);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // The longest: a part of a part may be a stage of its own.
        let stages = STAGES.iter().enumerate().filter(|(_, stage)| holds(stage));
        let place = stages.max_by_key(|(_, stage)| stage.len());
        place.map_or_else(|| panic!("{file} is in none of the stages"), |(at, _)| at)
    };
    let house = House::read();
    let mut up = Vec::new();
    for ((from, to), names) in &house.arrows {
        // The root re-exports, and is imported for nothing but what it defines.
        let root = [from, to].iter().any(|file| file.is_empty());
        if !root && stage(from) < stage(to) {
            up.push(format!("{from} imports {to}: {}", join(names)));
        }
    }
    assert!(up.is_empty(), "arrows up:\n{}", up.join("\n"));
}

#[test]
fn arrows_are_found() {
    let house = House::read();
    let has = |from: &str, to: &str| house.arrows.contains_key(&(from.into(), to.into()));
    assert!(
        has("balance::pick::core", "balance::pick::slots"),
        "a plain import"
    );
    assert!(
        has("balance::settings", "endpoint::eject::settings"),
        "by way of re-exports"
    );
    assert!(!has("balance::pick::slots", "balance::pick::core"));
}

/// A module by its path, as `balance::policy`; the root is empty.
type Name = String;

#[derive(Default)]
struct House {
    modules: BTreeMap<Name, Module>,
    /// From one file to another, and the names that it takes.
    arrows: BTreeMap<(Name, Name), BTreeSet<String>>,
}

#[derive(Default)]
struct Module {
    /// The module whose file it stands in: itself, or for one in braces the one around it.
    file: Name,
    defined: BTreeSet<String>,
    /// Names from elsewhere, re-exported or not, and their paths.
    imported: Vec<(String, Vec<String>)>,
    /// Paths that code mentions.
    mentioned: Vec<Vec<String>>,
}

impl House {
    fn read() -> Self {
        let mut house = Self::default();
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        house.read_file(&src.join("lib.rs"), "");
        house.draw();
        house
    }

    fn read_file(&mut self, path: &Path, module: &str) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "mod") => path.with_file_name(""),
            _ => path.with_extension(""),
        };
        self.read_items(&file.items, module, module, &folder);
    }

    fn read_items(&mut self, items: &[Item], name: &str, file: &str, folder: &Path) {
        let mut reader = Reader {
            module: Module {
                file: file.into(),
                ..Module::default()
            },
        };
        for item in items {
            reader.define(item);
            let Item::Mod(inner) = item else {
                reader.visit_item(item);
                continue;
            };
            if is_left_out(&inner.attrs) {
                continue;
            }
            let ident = inner.ident.to_string();
            let child = join_path(name, &ident);
            match &inner.content {
                Some((_, items)) => self.read_items(items, &child, file, &folder.join(&ident)),
                None => {
                    let plain = folder.join(format!("{ident}.rs"));
                    let path = if plain.exists() {
                        plain
                    } else {
                        folder.join(&ident).join("mod.rs")
                    };
                    self.read_file(&path, &child);
                }
            }
        }
        self.modules.insert(name.into(), reader.module);
    }

    fn draw(&mut self) {
        let mut arrows: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (name, module) in &self.modules {
            for path in &module.mentioned {
                // By way of what the module itself imports, or from the root.
                let Some((file, item)) = self.resolve(name, path, 0) else {
                    continue;
                };
                if file != module.file {
                    arrows
                        .entry((module.file.clone(), file))
                        .or_default()
                        .insert(item);
                }
            }
        }
        self.arrows = arrows;
    }

    /// The file that defines what a path names, seen from a module. `None` for what is no item of this
    /// crate.
    fn resolve(&self, from: &str, path: &[String], depth: u32) -> Option<(Name, String)> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend("", rest, depth),
            "self" => self.descend(from, rest, depth),
            "super" => {
                let parent = from.rsplit_once("::").map_or("", |(parent, _)| parent);
                let mut path = vec!["self".to_owned()];
                path.extend_from_slice(rest);
                match rest.first().map(String::as_str) {
                    Some("super") => self.resolve(parent, rest, depth),
                    _ => self.resolve(parent, &path, depth),
                }
            }
            _ => self.descend(from, path, depth),
        }
    }

    fn descend(&self, module: &str, path: &[String], depth: u32) -> Option<(Name, String)> {
        let (first, rest) = path.split_first()?;
        let here = self.modules.get(module)?;
        // Re-exports of re-exports end somewhere.
        if depth > 20 {
            return None;
        }
        let child = join_path(module, first);
        if self.modules.contains_key(&child) {
            return self.descend(&child, rest, depth);
        }
        if here.defined.contains(first) {
            return Some((here.file.clone(), first.clone()));
        }
        let imported = here.imported.iter();
        let mut named = imported.filter(|(name, _)| name == first || name == "*");
        named.find_map(|(name, target)| {
            let mut full = target.clone();
            if name == "*" {
                full.push(first.clone());
            }
            full.extend_from_slice(rest);
            // A name that imports itself from an outside crate ends here.
            let outside = !matches!(full[0].as_str(), "crate" | "self" | "super");
            if outside && full[0] == *first {
                return None;
            }
            self.resolve(module, &full, depth + 1)
        })
    }

    /// Sets of files that reach each other.
    fn circles(&self) -> Vec<Vec<Name>> {
        let files: BTreeSet<_> = self.arrows.keys().flat_map(|(a, b)| [a, b]).collect();
        let reach = |from: &Name| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(next) = open.pop() {
                for (_, to) in self.arrows.keys().filter(|(a, _)| a == next) {
                    if seen.insert(to) {
                        open.push(to);
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<_, _> = files.iter().map(|file| (*file, reach(file))).collect();
        let mut circles = BTreeSet::new();
        for file in &files {
            let both = files
                .iter()
                .filter(|other| reached[*file].contains(*other) && reached[*other].contains(*file));
            let circle: Vec<Name> = both.map(|file| (*file).clone()).collect();
            if !circle.is_empty() {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    fn tell(&self, circle: &[Name]) -> String {
        let within = |(from, to): &(&Name, &Name)| circle.contains(from) && circle.contains(to);
        let arrows = self
            .arrows
            .iter()
            .map(|((from, to), names)| ((from, to), names));
        let arrows = arrows.filter(|(arrow, _)| within(arrow));
        let lines = arrows.map(|((from, to), names)| format!("  {from} -> {to}: {}", join(names)));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Reads one module.
struct Reader {
    module: Module,
}

impl Reader {
    fn define(&mut self, item: &Item) {
        let ident = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Macro(item) => match &item.ident {
                Some(ident) => ident,
                None => return,
            },
            _ => return,
        };
        self.module.defined.insert(ident.to_string());
    }

    fn import(&mut self, tree: &UseTree, path: &mut Vec<String>, reexport: bool) {
        match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                self.import(&inner.tree, path, reexport);
                path.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path, reexport);
                }
            }
            UseTree::Name(name) => self.imports(
                &name.ident.to_string(),
                &name.ident.to_string(),
                path,
                reexport,
            ),
            UseTree::Rename(to) => self.imports(
                &to.rename.to_string(),
                &to.ident.to_string(),
                path,
                reexport,
            ),
            UseTree::Glob(_) => self.module.imported.push(("*".into(), path.clone())),
        }
    }

    fn imports(&mut self, name: &str, item: &str, path: &[String], reexport: bool) {
        let mut full = path.to_vec();
        let name = if item == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            full.push(item.to_owned());
            name.to_owned()
        };
        if !reexport {
            self.module.mentioned.push(full.clone());
        }
        self.module.imported.push((name, full));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_left_out(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let reexport = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, &mut Vec::new(), reexport);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        // A name alone was imported, or is defined here.
        if segments.len() > 1 {
            self.module.mentioned.push(segments);
        }
        syn::visit::visit_path(self, path);
    }
}

/// Whether an item is there for tests or documentation alone.
fn is_left_out(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let words = list.tokens.to_string();
        let words: Vec<_> = words
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        list.path.is_ident("cfg")
            && (words.contains(&"test") || words[0] == "doc")
            && !words.contains(&"not")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn join_path(module: &str, name: &str) -> Name {
    if module.is_empty() {
        name.into()
    } else {
        format!("{module}::{name}")
    }
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

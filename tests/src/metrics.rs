//! A Prometheus scrape, parsed.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// Type by family name, from the `# TYPE` lines.
    pub types: BTreeMap<String, String>,
    /// Every sample.
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum` or `_count` where it is part of a histogram.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Scrape {
    /// Reads the text format.
    ///
    /// # Panics
    /// When it is not the text format.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                scrape.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                scrape.samples.push(sample(line).unwrap_or_else(|| panic!("not a sample: {line}")));
            }
        }
        scrape
    }

    /// The sum of all samples of `name` that carry all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).map(|sample| sample.value).sum()
    }

    /// Every sample of `name` that carries all of `labels`.
    pub fn find<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(k, v)| sample.labels.get(*k).is_some_and(|found| found == v))
        })
    }

    /// The family that a sample belongs to: its own name, or that of its histogram.
    pub fn family<'a>(&self, sample: &'a Sample) -> &'a str {
        ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| sample.name.strip_suffix(suffix))
            .find(|stem| self.types.get(*stem).is_some_and(|kind| kind == "histogram"))
            .unwrap_or(&sample.name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = head.split_once('{') else {
        return Some(Sample { name: head.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, tail) = rest.split_once("=\"")?;
        let (text, tail) = quoted(tail)?;
        labels.insert(label.to_owned(), text);
        rest = tail.strip_prefix(',').unwrap_or(tail);
    }
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads up to the closing quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => out.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_values_and_families_are_read() {
        let text = "# HELP a_total b\n# TYPE a_total counter\na_total{x=\"1,\\\"2\",y=\"}\"} 3\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nplain 7\n";
        let scrape = Scrape::parse(text);
        assert_eq!(scrape.sum("a_total", &[("x", "1,\"2"), ("y", "}")]), 3.0);
        assert_eq!(scrape.sum("a_total", &[("x", "other")]), 0.0);
        assert_eq!(scrape.sum("plain", &[]), 7.0);
        let families: Vec<&str> = scrape.samples.iter().map(|s| scrape.family(s)).collect();
        assert_eq!(families, ["a_total", "h", "h", "plain"]);
    }
}

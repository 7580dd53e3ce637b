//! Figures by row and side, and their Markdown table.

use std::collections::BTreeMap;

/// Figures of one benchmark.
pub struct Table {
    title: String,
    /// Names of rows as they first came.
    order: Vec<String>,
    rows: BTreeMap<String, Row>,
}

struct Row {
    unit: String,
    values: BTreeMap<String, Vec<f64>>,
}

impl Row {
    /// Whether more of it is better: rates.
    fn is_rate(&self) -> bool {
        self.unit.ends_with("/s") || self.unit == "%"
    }
}

impl Table {
    /// An empty one.
    pub fn new(title: &str) -> Table {
        Table { title: title.to_string(), order: Vec::new(), rows: BTreeMap::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, side: &str, name: &str, value: f64, unit: &str) {
        if !self.rows.contains_key(name) {
            self.order.push(name.to_string());
        }
        let row = self.rows.entry(name.to_string()).or_insert_with(|| Row { unit: unit.to_string(), values: BTreeMap::new() });
        row.values.entry(side.to_string()).or_default().push(value);
    }

    /// Adds lines `name figure unit`. What is no figure is shown.
    pub fn add_text(&mut self, side: &str, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, figure, unit] = words.as_slice() else { continue };
            match figure.parse::<f64>() {
                Ok(value) => self.add(side, name, value, unit),
                Err(_) => eprintln!("{side}: {line}"),
            }
        }
    }

    /// Medians, and for each side but the first how many times worse it is than the first.
    pub fn print(&self, sides: &[String]) {
        let Some((first, others)) = sides.split_first() else { return };
        let ratio_names = others.iter().map(|s| format!(" {s}/{first} |")).collect::<String>();
        println!("## {}\n\n| row | unit |{}{ratio_names}", self.title, sides.iter().map(|s| format!(" {s} |")).collect::<String>());
        println!("| --- | --- |{}", " ---: |".repeat(sides.len() + others.len()));
        let mut logs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, row) in self.order.iter().filter_map(|n| Some((n, self.rows.get(n)?))) {
            let of = |side: &String| row.values.get(side).map(|v| median(v));
            let cell = |v: Option<f64>| v.map_or(" – |".to_string(), |v| format!(" {v:.0} |"));
            let mut line = format!("| {name} | {} |{}", row.unit, sides.iter().map(|s| cell(of(s))).collect::<String>());
            for side in others {
                let ratio = of(first).zip(of(side)).map(|(a, b)| if row.is_rate() { a / b } else { b / a });
                if let Some(r) = ratio.filter(|r| r.is_finite() && *r > 0.0) {
                    logs.entry(side).or_default().push(r.ln());
                }
                line += &ratio.filter(|r| r.is_finite()).map_or(" – |".to_string(), |r| format!(" {r:.2} |"));
            }
            println!("{line}");
        }
        for (side, l) in logs {
            let mean = (l.iter().sum::<f64>() / l.len() as f64).exp();
            println!("\nGeometric mean of {side}/{first}, {} rows: {mean:.2}", l.len());
        }
        println!();
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted.get(middle).copied().unwrap_or(f64::NAN),
        _ => (sorted.get(middle - 1).copied().unwrap_or(f64::NAN) + sorted.get(middle).copied().unwrap_or(f64::NAN)) / 2.0,
    }
}

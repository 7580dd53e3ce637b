//! Log lines: as text, or as JSON in the shape that runc writes and container managers read
//! (`{"level":"error","msg":"…","time":"…"}`).

use serde_json::{Map, Value};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `TIME LEVEL target: message field=value`
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// From `--log-format`'s argument.
    #[must_use]
    pub fn parse(name: &str) -> Option<Format> {
        match name {
            "text" => Some(Format::Text),
            "json" => Some(Format::Json),
            _ => None,
        }
    }

    /// As `--log-format` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
        }
    }
}

/// Makes every later `tracing` event of this process go to `file`, one write(2) per line so that processes can share it.
/// Does nothing if a subscriber is already in place.
pub fn init(file: File, format: Format, level: LevelFilter) {
    let subscriber = tracing_subscriber::registry().with(Lines { file, format }.with_filter(level));
    // Fails only if a subscriber is already there, which is what the documentation above says.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// A layer that writes lines.
struct Lines {
    file: File,
    format: Format,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let meta = event.metadata();
        let mut line = match self.format {
            Format::Text => fields.text(*meta.level(), meta.target()),
            Format::Json => fields.json(*meta.level()),
        };
        line.push('\n');
        // A log that cannot be written has nowhere to complain.
        let _ = (&self.file).write_all(line.as_bytes());
    }
}

/// One line of JSON for `message`, as [`init`] would have it written.
#[must_use]
pub fn json_line(level: Level, message: &str) -> String {
    let mut fields = Fields { message: message.to_owned(), ..Fields::default() };
    let mut line = fields.json(level);
    line.push('\n');
    line
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn text(&self, level: Level, target: &str) -> String {
        let mut line = format!("{} {level:5} {target}: {}", timestamp(), self.message.replace('\n', "\\n"));
        for (name, value) in &self.others {
            line.push_str(&format!(" {name}={value}"));
        }
        line
    }

    fn json(&mut self, level: Level) -> String {
        let mut object = std::mem::take(&mut self.others);
        object.insert("level".into(), level_name(level).into());
        object.insert("msg".into(), std::mem::take(&mut self.message).into());
        object.insert("time".into(), timestamp().into());
        Value::Object(object).to_string()
    }
}

/// The names of logrus, which the readers of these lines know.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.others.insert(field.name().into(), format!("{value:?}").into());
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.others.insert(field.name().into(), value.into());
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(field.name().into(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.insert(field.name().into(), value.into());
    }
}

/// Now, as RFC 3339 in UTC with microseconds.
#[must_use]
pub fn timestamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil_from_days((since.as_secs() / 86_400) as i64);
    let second = since.as_secs() % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z", second / 3600, second / 60 % 60, second % 60, since.subsec_micros())
}

/// Year, month and day of the proleptic Gregorian calendar for a day counted from 1970-01-01, by counting in years that
/// start on the 1st of March, whose leap day comes last.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(civil_from_days(19_782), (2024, 2, 29));
        assert_eq!(civil_from_days(20_513), (2026, 3, 1));
    }

    #[test]
    fn json_lines_have_the_fields_that_managers_read() {
        let line = json_line(Level::ERROR, "a \"quoted\"\nmessage");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "a \"quoted\"\nmessage");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line.matches('\n').count(), 1);
    }
}

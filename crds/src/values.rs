//! Values with a unit, as people write them: durations, percentages, quantities.
//!
//! The schema refuses what does not parse, so an error here means that admission was bypassed.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// Why a value with a unit could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    what: &'static str,
    given: String,
    expected: &'static str,
}

impl fmt::Display for ValueError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:?} is not a {}: write {}",
            self.given, self.what, self.expected
        )
    }
}

impl std::error::Error for ValueError {}

/// A Gateway API duration (GEP-2257): one to four of `<number><h|m|s|ms>`, such as `100ms` or `1m30s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GatewayDuration(pub String);

impl GatewayDuration {
    const EXPECTED: &'static str = "one to four of <number><h|m|s|ms>, such as 100ms or 1m30s";

    /// The duration it says.
    ///
    /// # Errors
    /// When the text is not of GEP-2257's form.
    pub fn parse(&self) -> Result<Duration, ValueError> {
        let error = || ValueError {
            what: "duration",
            given: self.0.clone(),
            expected: Self::EXPECTED,
        };
        let mut rest = self.0.as_str();
        let mut total = Duration::ZERO;
        for _ in 0..4 {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number: u64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(error)?;
            rest = rest.get(digits..).ok_or_else(error)?;
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            total += match rest.get(..unit) {
                Some("h") => Duration::from_secs(number.saturating_mul(3600)),
                Some("m") => Duration::from_secs(number.saturating_mul(60)),
                Some("s") => Duration::from_secs(number),
                Some("ms") => Duration::from_millis(number),
                _ => return Err(error()),
            };
            rest = rest.get(unit..).ok_or_else(error)?;
            if rest.is_empty() {
                return Ok(total);
            }
        }
        Err(error())
    }
}

impl JsonSchema for GatewayDuration {
    fn schema_name() -> Cow<'static, str> {
        "GatewayDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
            "x-kubernetes-validations": [{
                "rule": "duration(self) > duration('0s') && duration(self) <= duration('1h')",
                "message": "must be longer than 0s and at most 1h"
            }],
        })
    }
}

/// A percentage as text, such as `0.1%`; at most four decimals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub String);

impl Percent {
    /// The ratio it says, 0 to 1.
    ///
    /// # Errors
    /// When the text is not a number from 0 to 100 followed by `%`.
    pub fn ratio(&self) -> Result<f64, ValueError> {
        self.0
            .strip_suffix('%')
            .filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
            .and_then(|number| number.parse::<f64>().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| percent / 100.0)
            .ok_or_else(|| ValueError {
                what: "percentage",
                given: self.0.clone(),
                expected: "a number from 0 to 100 with a percent sign, such as 0.1%",
            })
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 9,
            "pattern": "^(100(\\.0{1,4})?|[0-9]{1,2}(\\.[0-9]{1,4})?)%$",
        })
    }
}

/// A Kubernetes quantity, such as `500m` or `10Gi`. An integer is taken too, as `kubectl` users write `cpu: 1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl Quantity {
    /// Its number in base units (cores, bytes).
    ///
    /// # Errors
    /// When the text is not a Kubernetes quantity.
    pub fn value(&self) -> Result<f64, ValueError> {
        let digits = self
            .0
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(self.0.len());
        let (number, suffix) = self.0.split_at(digits);
        let factor = match suffix {
            "n" => 1e-9,
            "u" => 1e-6,
            "m" => 1e-3,
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "P" => 1e15,
            "Ki" => 1024.0,
            "Mi" => 1_048_576.0,
            "Gi" => 1_073_741_824.0,
            "Ti" => 1_099_511_627_776.0,
            "Pi" => 1_125_899_906_842_624.0,
            _ => f64::NAN,
        };
        number
            .parse::<f64>()
            .ok()
            .map(|n| n * factor)
            .filter(|n| n.is_finite())
            .ok_or_else(|| ValueError {
                what: "quantity",
                given: self.0.clone(),
                expected: "a number with an optional suffix, such as 500m, 2 or 10Gi",
            })
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(u64),
            String(String),
        }
        Ok(Self(match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => text,
        }))
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": "^[0-9]{1,15}(\\.[0-9]{1,9})?(n|u|m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let cases = [
            ("100ms", Some(100)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("", None),
            ("100", None),
            ("1.5s", None),
            ("-1s", None),
            ("1d", None),
            ("1s1s1s1s1s", None),
        ];
        for (text, expected) in cases {
            let parsed = GatewayDuration(text.into()).parse().ok().map(|d| d.as_millis());
            assert_eq!(parsed, expected, "{text:?}");
        }
    }

    #[test]
    fn percentages_read_as_ratios() {
        let cases = [
            ("0.1%", Some(0.001)),
            ("100%", Some(1.0)),
            ("0%", Some(0.0)),
            ("101%", None),
            ("5", None),
            ("x%", None),
            ("-1%", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Percent(text.into()).ratio().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn quantities_read_in_base_units() {
        let cases = [
            ("500m", Some(0.5)),
            ("2", Some(2.0)),
            ("1Gi", Some(1_073_741_824.0)),
            ("1.5k", Some(1500.0)),
            ("1x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity(text.into()).value().ok(), expected, "{text:?}");
        }
        let number: Quantity = serde_json::from_str("2").unwrap();
        assert_eq!(number, Quantity("2".into()), "an integer is what `cpu: 2` arrives as");
    }
}

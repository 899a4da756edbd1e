//! The text of a profile and its conversion to a checked [`Profile`].

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Condition, Entry, Profile, ProfileError, Refusal, Test, Verdict, Width};
use crate::seccomp::{Architecture, Errno, constants, syscall_number};

/// The most alternatives of one rule once its lists are written out.
const MAX_ALTERNATIVES: usize = 96;
/// The most conditions of one alternative once its lists are written out.
const MAX_CONDITIONS: usize = 32;
/// The most conditions of a profile, for both architectures together. Each takes two instructions or
/// more, of which a filter has 4096, so what is more could not be compiled anyway.
const MAX_ALL_CONDITIONS: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    #[expect(
        dead_code,
        reason = "for the reader of the file; required so that it is written"
    )]
    summary: String,
    allow: Vec<Allow>,
    #[serde(default)]
    conditional: Vec<Conditional>,
    #[serde(default)]
    refuse: Vec<Refuse>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    calls: Vec<String>,
    reason: String,
    architectures: Option<Vec<Architecture>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conditional {
    calls: Vec<String>,
    reason: String,
    architectures: Option<Vec<Architecture>>,
    when: Vec<Vec<Comparison>>,
    otherwise: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refuse {
    calls: Vec<String>,
    reason: String,
    architectures: Option<Vec<Architecture>>,
    errno: String,
    #[serde(default = "reported")]
    report: bool,
}

const fn reported() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Comparison {
    argument: u8,
    width: Width,
    op: Operator,
    value: Option<Value>,
    values: Option<Vec<Value>>,
    mask: Option<Value>,
    #[expect(dead_code, reason = "for the reader of the file")]
    comment: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operator {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    MaskedEq,
    In,
    MaskedIn,
    NotIn,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
}

pub(super) fn parse(text: &str) -> Result<Profile, ProfileError> {
    if text.len() > Profile::MAX_TEXT {
        return Err(ProfileError::TooLong(text.len()));
    }
    let document: Document = serde_json::from_str(text).map_err(ProfileError::Form)?;
    filled("name", &document.name)?;
    filled_list("allow", &document.allow)?;

    let mut listed = Listed::default();
    for group in &document.allow {
        let rule = Rule::new(
            "allow",
            &group.calls,
            &group.reason,
            group.architectures.as_deref(),
        )?;
        listed.add(&rule, &Verdict::Allow)?;
    }
    for group in &document.conditional {
        let rule = Rule::new(
            "conditional",
            &group.calls,
            &group.reason,
            group.architectures.as_deref(),
        )?;
        let otherwise = match &group.otherwise {
            Some(name) => Refusal {
                errno: rule.errno(name)?,
                report: true,
            },
            None => Refusal::UNLISTED,
        };
        let alternatives = rule.alternatives(&group.when)?;
        listed.add(
            &rule,
            &Verdict::When {
                alternatives,
                otherwise,
            },
        )?;
    }
    for group in &document.refuse {
        let rule = Rule::new(
            "refuse",
            &group.calls,
            &group.reason,
            group.architectures.as_deref(),
        )?;
        let errno = rule.errno(&group.errno)?;
        listed.add(
            &rule,
            &Verdict::Refuse(Refusal {
                errno,
                report: group.report,
            }),
        )?;
    }
    let entries = listed
        .entries
        .into_iter()
        .map(|(key, (_, entry))| (key, entry));
    Ok(Profile {
        name: document.name,
        entries: entries.collect(),
    })
}

/// Calls seen so far, with the list that mentions them.
#[derive(Default)]
struct Listed {
    entries: BTreeMap<(Architecture, u32), (&'static str, Entry)>,
    conditions: usize,
}

impl Listed {
    fn add(&mut self, rule: &Rule<'_>, verdict: &Verdict) -> Result<(), ProfileError> {
        let conditions = match verdict {
            Verdict::When { alternatives, .. } => alternatives.iter().map(Vec::len).sum(),
            Verdict::Allow | Verdict::Refuse(_) => 0_usize,
        };
        for architecture in rule.architectures.iter().copied() {
            for call in rule.calls {
                self.conditions = self.conditions.saturating_add(conditions);
                rule.fits(
                    "conditions, counting those before it",
                    self.conditions,
                    MAX_ALL_CONDITIONS,
                )?;
                let Some(number) = syscall_number(architecture, call) else {
                    return Err(ProfileError::UnknownCall {
                        call: call.clone(),
                        architecture,
                    });
                };
                let entry = Entry {
                    name: call.clone(),
                    reason: rule.reason.to_owned(),
                    verdict: verdict.clone(),
                };
                let before = self
                    .entries
                    .insert((architecture, number), (rule.list, entry));
                if let Some((first, _)) = before {
                    let (call, second) = (call.clone(), rule.list);
                    return Err(ProfileError::Duplicate {
                        call,
                        architecture,
                        first,
                        second,
                    });
                }
            }
        }
        Ok(())
    }
}

/// What the rules of all three lists have in common.
struct Rule<'a> {
    list: &'static str,
    calls: &'a [String],
    reason: &'a str,
    architectures: &'a [Architecture],
}

impl<'a> Rule<'a> {
    fn new(
        list: &'static str,
        calls: &'a [String],
        reason: &'a str,
        architectures: Option<&'a [Architecture]>,
    ) -> Result<Self, ProfileError> {
        filled_list(&format!("{list}: calls"), calls)?;
        let architectures = architectures.unwrap_or(&Architecture::ALL);
        let rule = Self {
            list,
            calls,
            reason,
            architectures,
        };
        filled(&format!("rule for {}: reason", rule.call()), reason)?;
        filled_list(
            &format!("rule for {}: architectures", rule.call()),
            architectures,
        )?;
        Ok(rule)
    }

    /// What the rule is called in messages.
    fn call(&self) -> &str {
        self.calls.first().map_or("", String::as_str)
    }

    fn errno(&self, name: &str) -> Result<Errno, ProfileError> {
        constants::errno(name).ok_or_else(|| ProfileError::UnknownErrno {
            call: self.call().to_owned(),
            errno: name.to_owned(),
        })
    }

    fn alternatives(&self, when: &[Vec<Comparison>]) -> Result<Vec<Vec<Condition>>, ProfileError> {
        filled_list(&format!("rule for {}: when", self.call()), when)?;
        let mut alternatives = Vec::new();
        for conditions in when {
            filled_list(
                &format!("rule for {}: when: alternative", self.call()),
                conditions,
            )?;
            let mut products: Vec<Vec<Condition>> = vec![Vec::new()];
            for comparison in conditions {
                let choices = self.choices(comparison)?;
                self.fits(
                    "alternatives",
                    products.len().saturating_mul(choices.len()),
                    MAX_ALTERNATIVES,
                )?;
                products = product(&products, &choices);
                let longest = products.iter().map(Vec::len).max().unwrap_or(0);
                self.fits("conditions", longest, MAX_CONDITIONS)?;
            }
            alternatives.append(&mut products);
            self.fits("alternatives", alternatives.len(), MAX_ALTERNATIVES)?;
        }
        Ok(alternatives)
    }

    /// The comparison as alternatives, each a list of conditions that hold together.
    fn choices(&self, comparison: &Comparison) -> Result<Vec<Vec<Condition>>, ProfileError> {
        if comparison.argument > 5 {
            return Err(self.condition(comparison, "system calls have the arguments 0 to 5"));
        }
        let tests =
            |test: fn(u64) -> Test| self.one(comparison).map(|value| vec![vec![test(value)]]);
        let choices = match comparison.op {
            Operator::Eq => tests(Test::Eq)?,
            Operator::Ne => tests(Test::Ne)?,
            Operator::Lt => tests(Test::Lt)?,
            Operator::Le => tests(Test::Le)?,
            Operator::Gt => tests(Test::Gt)?,
            Operator::Ge => tests(Test::Ge)?,
            Operator::MaskedEq => {
                let (mask, value) = (self.mask(comparison)?, self.one(comparison)?);
                vec![vec![self.masked(comparison, mask, value)?]]
            }
            Operator::In => {
                let values = self.many(comparison)?;
                values
                    .into_iter()
                    .map(|value| vec![Test::Eq(value)])
                    .collect()
            }
            Operator::MaskedIn => {
                let mask = self.mask(comparison)?;
                let masked = |value| Ok(vec![self.masked(comparison, mask, value)?]);
                self.many(comparison)?
                    .into_iter()
                    .map(masked)
                    .collect::<Result<_, ProfileError>>()?
            }
            Operator::NotIn => vec![self.many(comparison)?.into_iter().map(Test::Ne).collect()],
        };
        let masked = matches!(comparison.op, Operator::MaskedEq | Operator::MaskedIn);
        if comparison.mask.is_some() && !masked {
            return Err(self.condition(
                comparison,
                "`mask` belongs to `masked_eq` and `masked_in` only",
            ));
        }
        let (argument, width) = (comparison.argument, comparison.width);
        let condition = |test| Condition {
            argument,
            width,
            test,
        };
        Ok(choices
            .into_iter()
            .map(|tests| tests.into_iter().map(condition).collect())
            .collect())
    }

    fn masked(&self, comparison: &Comparison, mask: u64, value: u64) -> Result<Test, ProfileError> {
        if value & !mask != 0 {
            return Err(self.condition(
                comparison,
                "the value has bits outside the mask and never matches",
            ));
        }
        Ok(Test::MaskedEq { mask, value })
    }

    fn one(&self, comparison: &Comparison) -> Result<u64, ProfileError> {
        match (&comparison.value, &comparison.values) {
            (Some(value), None) => self.number(comparison, value),
            _ => Err(self.condition(comparison, "this `op` takes one `value` and no `values`")),
        }
    }

    fn many(&self, comparison: &Comparison) -> Result<Vec<u64>, ProfileError> {
        match (&comparison.value, &comparison.values) {
            (None, Some(values)) if !values.is_empty() => values
                .iter()
                .map(|value| self.number(comparison, value))
                .collect(),
            _ => Err(self.condition(
                comparison,
                "this `op` takes a filled list of `values` and no `value`",
            )),
        }
    }

    fn mask(&self, comparison: &Comparison) -> Result<u64, ProfileError> {
        match &comparison.mask {
            Some(mask) => self.number(comparison, mask),
            None => Err(self.condition(comparison, "this `op` takes a `mask`")),
        }
    }

    fn number(&self, comparison: &Comparison, value: &Value) -> Result<u64, ProfileError> {
        let number = match value {
            Value::Number(number) => *number,
            Value::Text(text) => {
                constants::resolve(text).ok_or_else(|| ProfileError::UnknownConstant {
                    call: self.call().to_owned(),
                    value: text.clone(),
                })?
            }
        };
        if comparison.width == Width::Dword && number > u64::from(u32::MAX) {
            return Err(self.condition(comparison, "the number does not fit the width `dword`"));
        }
        Ok(number)
    }

    fn condition(&self, comparison: &Comparison, problem: &'static str) -> ProfileError {
        let (call, argument) = (self.call().to_owned(), comparison.argument);
        ProfileError::Condition {
            call,
            argument,
            problem,
        }
    }

    fn fits(&self, what: &'static str, count: usize, max: usize) -> Result<(), ProfileError> {
        if count <= max {
            return Ok(());
        }
        Err(ProfileError::TooMany {
            call: self.call().to_owned(),
            what,
            count,
            max,
        })
    }
}

fn product(left: &[Vec<Condition>], right: &[Vec<Condition>]) -> Vec<Vec<Condition>> {
    left.iter()
        .flat_map(|head| right.iter().map(|tail| [head.as_slice(), tail].concat()))
        .collect()
}

fn filled(place: &str, text: &str) -> Result<(), ProfileError> {
    filled_list(place, text.trim().as_bytes())
}

fn filled_list<T>(place: &str, list: &[T]) -> Result<(), ProfileError> {
    if list.is_empty() {
        return Err(ProfileError::Empty {
            place: place.to_owned(),
        });
    }
    Ok(())
}

//! As much of Prometheus as alerts need: scrapes, and expressions over a scrape and the one before it.

use promql_parser::parser::token::{T_EQLC, T_GTR, T_LAND, T_LOR, T_LSS, T_LUNLESS, T_MAX, T_MIN, T_SUB, T_SUM};
use promql_parser::parser::{Expr, LabelModifier, VectorSelector};
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

/// What was told at one time: each sample by its name and labels.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub at: f64,
    pub samples: Vec<(String, Labels, f64)>,
}

impl Scrape {
    pub fn parse(text: &str, at: f64) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.map(|label| {
                let (name, value) = label.split_once("=\"").unwrap();
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            });
            (name.to_owned(), labels.collect(), value.parse().unwrap())
        });
        Self { at, samples: samples.collect() }
    }

    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |of: &Labels| labels.iter().all(|(label, value)| of.get(*label).is_some_and(|is| is == value));
        self.samples.iter().find(|(named, of, _)| named == name && has(of)).map(|(_, _, value)| *value)
    }

    fn select(&self, selector: &VectorSelector) -> Vec<(Labels, f64)> {
        let name = selector.name.as_deref().unwrap();
        let fits = |labels: &Labels| {
            let value = |label: &str| labels.get(label).map_or("", String::as_str);
            selector.matchers.matchers.iter().all(|matcher| matcher.is_match(value(&matcher.name)))
        };
        let found = self.samples.iter().filter(|(named, labels, _)| named == name && fits(labels));
        found.map(|(_, labels, value)| (labels.clone(), *value)).collect()
    }
}

enum Value {
    Number(f64),
    Vector(Vec<(Labels, f64)>),
}

/// The series for which an alert's expression holds, `now`, with `before` as what was told when its range or offset began.
pub fn firing(expression: &str, now: &Scrape, before: &Scrape) -> Vec<(Labels, f64)> {
    let parsed = promql_parser::parser::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    match eval(&parsed, now, before) {
        Value::Vector(found) => found,
        Value::Number(_) => panic!("{expression} is a number"),
    }
}

fn eval(expression: &Expr, now: &Scrape, before: &Scrape) -> Value {
    let vector = |expression: &Expr| match eval(expression, now, before) {
        Value::Vector(vector) => vector,
        Value::Number(_) => panic!("{expression} is a number"),
    };
    match expression {
        Expr::Paren(inner) => eval(&inner.expr, now, before),
        Expr::NumberLiteral(number) => Value::Number(number.val),
        Expr::VectorSelector(selector) if selector.offset.is_some() => Value::Vector(before.select(selector)),
        Expr::VectorSelector(selector) => Value::Vector(now.select(selector)),
        Expr::Call(call) if call.func.name == "time" => Value::Number(now.at),
        Expr::Call(call) if call.func.name == "increase" => {
            let Expr::MatrixSelector(range) = &*call.args.args[0] else { panic!("{expression}") };
            let then: BTreeMap<Labels, f64> = before.select(&range.vs).into_iter().collect();
            // Of what was not there, nothing is known.
            let grown = now.select(&range.vs).into_iter();
            Value::Vector(
                grown.filter_map(|(labels, n)| then.get(&labels).map(|then| (labels.clone(), n - then))).collect(),
            )
        }
        Expr::Aggregate(aggregate) => {
            let kept: Vec<String> = match &aggregate.modifier {
                Some(LabelModifier::Include(labels)) => labels.labels.clone(),
                None => Vec::new(),
                Some(LabelModifier::Exclude(_)) => panic!("{expression}"),
            };
            let mut groups: BTreeMap<Labels, f64> = BTreeMap::new();
            for (labels, value) in vector(&aggregate.expr) {
                let group = labels.into_iter().filter(|(label, _)| kept.contains(label)).collect();
                let with = |before: f64| match aggregate.op.id() {
                    T_SUM => before + value,
                    T_MAX => before.max(value),
                    T_MIN => before.min(value),
                    _ => panic!("{expression}"),
                };
                groups.entry(group).and_modify(|before| *before = with(*before)).or_insert(value);
            }
            Value::Vector(groups.into_iter().collect())
        }
        Expr::Binary(binary) => match binary.op.id() {
            T_LOR => Value::Vector([vector(&binary.lhs), vector(&binary.rhs)].concat()),
            T_LUNLESS | T_LAND => {
                let others = vector(&binary.rhs);
                let keeps =
                    |labels: &Labels| others.iter().any(|(other, _)| other == labels) == (binary.op.id() == T_LAND);
                Value::Vector(vector(&binary.lhs).into_iter().filter(|(labels, _)| keeps(labels)).collect())
            }
            op => match (eval(&binary.lhs, now, before), eval(&binary.rhs, now, before)) {
                (Value::Vector(left), Value::Number(right)) => {
                    let holds = |left: f64| match op {
                        T_GTR => left > right,
                        T_LSS => left < right,
                        T_EQLC => left == right,
                        _ => panic!("{expression}"),
                    };
                    Value::Vector(left.into_iter().filter(|(_, left)| holds(*left)).collect())
                }
                (Value::Number(left), Value::Vector(right)) if op == T_SUB => {
                    Value::Vector(right.into_iter().map(|(labels, right)| (labels, left - right)).collect())
                }
                _ => panic!("{expression}"),
            },
        },
        _ => panic!("{expression}: not known here"),
    }
}

//! What was measured: rounds, medians with their spread, and the ratios that are aimed at; as text, JSON and a plot.

use serde::Serialize;
use std::fmt::Write;

/// One figure, measured in several rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub rounds: Vec<f64>,
    /// What is aimed at, where something is.
    pub aim: Option<Aim>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    AtLeast(f64),
    Under(f64),
}

impl Figure {
    pub fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn spread(&self) -> (f64, f64) {
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        (least, self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// How far the aim is reached: 1 and more is reached.
    fn reached(&self) -> Option<f64> {
        match self.aim? {
            Aim::AtLeast(aim) => Some(self.median() / aim),
            Aim::Under(aim) => Some(aim / self.median()),
        }
    }
}

/// All figures of one run, and what makes them comparable.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub machine: Vec<String>,
    pub figures: Vec<Figure>,
}

impl Table {
    /// Adds a figure, and prints it.
    pub fn add(&mut self, what: impl Into<String>, unit: &'static str, rounds: Vec<f64>, aim: Option<Aim>) -> f64 {
        let figure = Figure { what: what.into(), unit, rounds, aim };
        println!("{}", line(&figure));
        let median = figure.median();
        self.figures.push(figure);
        median
    }

    pub fn describe(&mut self, what: String) {
        println!("{what}");
        self.machine.push(what);
    }

    /// Those with an aim, as bars: the line in the middle is the aim.
    pub fn plot(&self) -> String {
        const ROW: usize = 34;
        const LEFT: usize = 560;
        const UNIT: f64 = 160.0;
        let aimed: Vec<_> = self.figures.iter().filter_map(|figure| Some((figure, figure.reached()?))).collect();
        let height = aimed.len() * ROW + 50;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<text x=\"{LEFT}\" y=\"18\">how far the aim is reached (line: the aim)</text>\n",
            LEFT + 420
        );
        for (n, (figure, reached)) in aimed.iter().enumerate() {
            let (top, width) = (n * ROW + 30, (reached * UNIT).min(400.0));
            let colour = if *reached >= 1.0 { "#4a8" } else { "#c63" };
            let text = line(figure).replace('&', "&amp;").replace('<', "&lt;");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            write!(
                svg,
                "<text x=\"8\" y=\"{}\" font-size=\"10\">{text}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"20\" fill=\"{colour}\"/>\n",
                top + 14
            )
            .expect("a String takes every write");
        }
        let x = LEFT as f64 + UNIT;
        svg + &format!("<line x1=\"{x}\" y1=\"26\" x2=\"{x}\" y2=\"{}\" stroke=\"#000\"/>\n</svg>\n", height - 14)
    }
}

fn line(figure: &Figure) -> String {
    let (least, most) = figure.spread();
    let digits = match figure.median() {
        median if median >= 1000.0 => 0,
        median if median >= 100.0 => 1,
        _ => 2,
    };
    let aim = match figure.aim {
        None => String::new(),
        Some(aim) => {
            let reached = figure.reached().is_some_and(|reached| reached >= 1.0);
            let (sign, aim) = match aim {
                Aim::AtLeast(aim) => (">=", aim),
                Aim::Under(aim) => ("<", aim),
            };
            format!("   aim {sign} {aim}{}", if reached { "" } else { ": NOT REACHED" })
        }
    };
    format!(
        "{:<66} {:>12.digits$} {:<8} ({least:.digits$} to {most:.digits$}){aim}",
        figure.what,
        figure.median(),
        figure.unit
    )
}

//! A small picture of curves over the number of stored events, as SVG text. Pure, and the same bytes for the same
//! figures: what is drawn is committed.

use std::fmt::Write as _;

/// How a value becomes a height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// From one power of ten to another.
    Logarithmic,
}

/// One curve: events stored, and a value.
pub struct Series {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// Curves that share a value axis.
pub struct Panel {
    pub title: &'static str,
    pub scale: Scale,
    pub series: Vec<Series>,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 270.0;
/// Space around the curves of a panel: left, right, top, bottom.
const MARGINS: (f64, f64, f64, f64) = (56.0, 18.0, 52.0, 38.0);
const COLUMNS: usize = 2;
const COLOURS: [&str; 3] = ["#1f5fa8", "#c2541b", "#4d7c2a"];

/// All panels, two in a row.
pub fn svg(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        let (x, y) = ((index % COLUMNS) as f64 * WIDTH, (index / COLUMNS) as f64 * HEIGHT);
        // Writing to a text cannot fail.
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">\n{}</g>", panel.draw());
    }
    out.push_str("</svg>\n");
    out
}

/// Values that get a line and a label, the least and the greatest being the ends of the axis.
fn ticks(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let greatest = values.clone().fold(0.0_f64, f64::max);
    match scale {
        Scale::Linear => {
            let step = nice(greatest / 4.0);
            let count = (greatest / step).ceil().max(1.0) as usize;
            (0..=count).map(|index| index as f64 * step).collect()
        }
        Scale::Logarithmic => {
            let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
            if !least.is_finite() {
                return vec![1.0, 10.0];
            }
            let (from, to) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
            (from..=to.max(from + 1)).map(|power| 10f64.powi(power)).collect()
        }
    }
}

/// The next number upwards that is 1, 2 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let leading = [1.0, 2.0, 5.0, 10.0].into_iter().find(|leading| leading * power >= value * 0.999);
    leading.unwrap_or(10.0) * power
}

/// Share of the way from the first tick to the last.
fn share(scale: Scale, ticks: &[f64], value: f64) -> f64 {
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else { return 0.0 };
    match scale {
        Scale::Linear => (value - first) / (last - first),
        Scale::Logarithmic => (value.max(*first) / first).log10() / (last / first).log10(),
    }
}

/// A number as short as it can be read.
fn label(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", value / 1e6),
        1e3.. => format!("{}k", value / 1e3),
        // Steps are at least a thousandth of what is shown: more digits are an artefact of the sum.
        _ => format!("{}", (value * 1e4).round() / 1e4),
    }
}

impl Panel {
    fn draw(&self) -> String {
        let (left, right, top, bottom) = MARGINS;
        let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
        let all = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let across = ticks(Scale::Logarithmic, all().map(|(events, _)| events));
        let upwards = ticks(self.scale, all().map(|(_, value)| value));
        let x = |events| left + width * share(Scale::Logarithmic, &across, events);
        let y = |value| top + height * (1.0 - share(self.scale, &upwards, value));
        let mut out = format!("<text x=\"{left}\" y=\"20\" font-size=\"13\">{}</text>\n", self.title);
        for tick in &upwards {
            let _ = writeln!(
                out,
                "<path d=\"M{left} {y:.1}h{width}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y(*tick) + 4.0,
                label(*tick),
                y = y(*tick),
            );
        }
        for tick in &across {
            let _ = writeln!(
                out,
                "<path d=\"M{x:.1} {:.1}v4\" stroke=\"#888888\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                top + height,
                top + height + 16.0,
                label(*tick),
                x = x(*tick),
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">events stored</text>",
            left + width / 2.0,
            top + height + 31.0
        );
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let places: Vec<(f64, f64)> = series.points.iter().map(|(events, value)| (x(*events), y(*value))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
            for (x, y) in places {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
            }
            let from = left + index as f64 * 150.0;
            let _ = writeln!(
                out,
                "<path d=\"M{from:.1} 36h14\" stroke=\"{colour}\" stroke-width=\"3\"/>\
                 <text x=\"{:.1}\" y=\"40\">{}</text>",
                from + 20.0,
                series.name
            );
        }
        out
    }
}

//! Drawings: percentiles of times, and figures against sizes, all on logarithmic axes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::plan::{Group, Unit};
use super::report::{file_name, has_times};
use super::results::{Entry, Results};
use super::spec::{Work, Workload};

/// A line's name and its points.
type Line = (String, Vec<(f64, f64)>);

/// What a figure is drawn against: its name, the names of the axes, and which work has it.
type Sizes = (&'static str, &'static str, &'static str, fn(&Group) -> Option<usize>);

pub(crate) fn draw(out: &Path, results: &Results) -> Result<()> {
    for entry in results.entries.iter().filter(|entry| has_times(entry.group.work)) {
        let group = &entry.group;
        let title = format!("{} {} ({})", group.workload, group.detail, group.placement);
        let lines = entry.rows.iter().filter(|row| !row.times.is_empty()).map(|row| {
            let points = (0..).map(|step| 10f64.powf(f64::from(step) / 8.0));
            let most = row.times.len() as f64;
            let points = points.take_while(|one_in| *one_in <= most);
            let point = |one_in: f64| (one_in, row.times.at(1.0 - 1.0 / one_in) as f64 / 1e3);
            (row.peer.name.to_owned(), points.map(point).collect())
        });
        let name = format!("percentiles {title}");
        chart(out, &name, "of so many messages, all but one take at most", "us", lines.collect())?;
    }
    let rate = "million messages a second";
    let sizes: [Sizes; 5] = [
        ("processes", "senders, and as many receivers", rate, |it| match it.work {
            Work::Crowd { each } => Some(each),
            _ => None,
        }),
        ("capacity", "capacity in messages of 64 B", rate, |it| match (it.work, it.unit) {
            (Work::Bytes { capacity, .. }, Unit::Rate) => Some(capacity),
            _ => None,
        }),
        ("message size", "bytes a message", "GB/s", |it| match (it.work, it.unit) {
            (Work::Bytes { len, .. }, Unit::Bandwidth) => Some(len),
            _ => None,
        }),
        ("queues", "queues on one ring", rate, |it| match it.work {
            Work::Queues { queues } => Some(queues),
            _ => None,
        }),
        ("waiters", "waiting tasks", "us until all are served", |it| match it.work {
            Work::Waiters { tasks } => Some(tasks),
            _ => None,
        }),
    ];
    for (name, across, up, size) in sizes {
        let lines = against(results.of(Workload::Growth), size);
        chart(out, &format!("growth against {name}"), across, up, lines)?;
    }
    let len = |it: &Group| match it.work {
        Work::Bytes { len, .. } => Some(len),
        _ => None,
    };
    let lines = against(results.of(Workload::Copy), len);
    chart(out, "copied in and out", "bytes a message", "GB/s", lines)?;
    let lines = against(results.of(Workload::Inplace), len);
    chart(out, "in place", "bytes a message", "ns a message", lines)
}

/// The medians of each peer against a size.
fn against<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    size: fn(&Group) -> Option<usize>,
) -> Vec<Line> {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for entry in entries {
        let Some(size) = size(&entry.group) else { continue };
        for row in &entry.rows {
            if let Some(spread) = row.spread() {
                lines.entry(row.peer.name).or_default().push((size as f64, spread.median));
            }
        }
    }
    lines.into_iter().map(|(name, points)| (name.to_owned(), points)).collect()
}

fn chart(out: &Path, title: &str, across: &str, up: &str, lines: Vec<Line>) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (mut low, mut high) = (f64::INFINITY, 0f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        low / 1.2..high * 1.2
    };
    if points().next().is_none() {
        return Ok(());
    }
    let xs = range(&mut points().map(|point| point.0));
    let ys = range(&mut points().map(|point| point.1));
    let path = out.join(file_name(title) + ".svg");
    let area = SVGBackend::new(&path, (1200, 640)).into_drawing_area();
    let fault = |error| anyhow!("{title}: {error}");
    area.fill(&WHITE).map_err(fault)?;
    let (area, legend) = area.split_horizontally(820);
    let mut chart = ChartBuilder::on(&area)
        .caption(title.trim(), ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(50)
        .y_label_area_size(80)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())
        .map_err(fault)?;
    let number = |value: &f64| ticks(*value);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(across)
        .y_desc(up)
        .label_style(("sans-serif", 18))
        .axis_desc_style(("sans-serif", 20))
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()
        .map_err(fault)?;
    let all = lines.len() as f64;
    for (index, (name, mut points)) in lines.into_iter().enumerate() {
        points.sort_by(|one, two| one.0.total_cmp(&two.0));
        // Ours are thick.
        let width = if name.starts_with("parkline") { 4 } else { 2 };
        // Around the circle of colours, none of them light.
        let color = HSLColor(index as f64 / all, 0.9, 0.3 + 0.1 * (index % 3) as f64);
        let style = color.stroke_width(width);
        let dots = points.iter().map(|point| Circle::new(*point, 3, color.filled()));
        chart.draw_series(dots).map_err(fault)?;
        chart.draw_series(LineSeries::new(points, style)).map_err(fault)?;
        let y = 60 + 24 * i32::try_from(index)?;
        legend.draw(&PathElement::new([(8, y), (34, y)], style)).map_err(fault)?;
        legend.draw(&Text::new(name, (42, y - 7), ("sans-serif", 19))).map_err(fault)?;
    }
    area.present().map_err(fault)?;
    Ok(())
}

/// For the ticks of an axis.
fn ticks(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", value / 1e6),
        1e3.. => format!("{} k", value / 1e3),
        _ => format!("{value}"),
    }
}

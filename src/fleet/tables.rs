//! What `seawall fleet` prints for people.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::admin::{DeviceDetail, JoinTokenView};
use crate::local::types::DeviceView;

pub fn joined(tags: &BTreeMap<String, String>) -> String {
    let tags: Vec<String> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    tags.join(",")
}

pub fn device_table(devices: &[DeviceView]) -> String {
    let rows = devices.iter().map(|device| {
        vec![
            device.id.to_string(),
            device.tenant.clone(),
            device.node.clone().unwrap_or_else(|| "-".to_owned()),
            device.host_name.clone(),
            connection(device).to_owned(),
            joined(&device.tags),
            device.addresses.join(","),
            time(device.last_seen),
        ]
    });
    table(
        &[
            "ID",
            "TENANT",
            "NODE",
            "HOST",
            "STATE",
            "TAGS",
            "ADDRESSES",
            "LAST SEEN",
        ],
        rows,
    )
}

fn connection(device: &DeviceView) -> &'static str {
    match (device.connected, device.up_to_date) {
        (true, true) => "up to date",
        (true, false) => "behind",
        (false, _) => "offline",
    }
}

pub fn detail_lines(detail: &DeviceDetail) -> String {
    let view = &detail.view;
    let mut lines = vec![
        ("id", view.id.to_string()),
        ("tenant", view.tenant.clone()),
        ("node", view.node.clone().unwrap_or_else(|| "-".to_owned())),
        ("tags", joined(&view.tags)),
        ("trust", format!("{:?}", view.trust)),
        ("state", connection(view).to_owned()),
        ("host", view.host_name.clone()),
        ("os", view.os.clone()),
        ("kernel", view.kernel.clone()),
        ("agent", view.agent_version.clone()),
        ("addresses", addresses(view)),
        (
            "connects",
            format!("from {}", view.connects_from.as_deref().unwrap_or("-")),
        ),
        ("enrolled", view.enrolled_at.to_string()),
        ("last seen", time(view.last_seen)),
        ("applied", time(detail.applied_at)),
        ("state hash", detail.state_hash.clone()),
        ("in force", detail.in_force.join(", ")),
    ];
    if let Some(refused) = &detail.refused {
        lines.push(("refused", refused.clone()));
    }
    for count in &detail.counts {
        let would_be = if count.observing { " (observed)" } else { "" };
        let counted = format!("{} packets, {} bytes{would_be}", count.packets, count.bytes);
        lines.push(("rule", format!("{}: {counted}", count.rule)));
    }
    lines
        .into_iter()
        .map(|(name, value)| format!("{name:<11}{value}\n"))
        .collect()
}

fn addresses(view: &DeviceView) -> String {
    let known = view.addresses.join(", ");
    match view.addresses_left_out {
        0 => known,
        more => format!("{known} and {more} more, which are not known here"),
    }
}

pub fn token_table(tokens: &[JoinTokenView], now: Timestamp) -> String {
    let rows = tokens.iter().map(|token| {
        let state = if token.revoked_at.is_some() {
            "revoked"
        } else if token.expires_at <= now {
            "expired"
        } else if token.uses_left == 0 {
            "used up"
        } else {
            "good"
        };
        vec![
            token.id.clone(),
            token.tenant.clone(),
            state.to_owned(),
            token.uses_left.to_string(),
            token.expires_at.to_string(),
            token.created_by.clone(),
            joined(&token.tags),
        ]
    });
    table(
        &[
            "ID",
            "TENANT",
            "STATE",
            "USES LEFT",
            "EXPIRES",
            "MADE BY",
            "TAGS",
        ],
        rows,
    )
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| at.to_string())
}

/// Columns as wide as their widest cell, two spaces between.
pub fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let headings = headings.iter().map(|heading| heading.to_string()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len()).filter_map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_space() {
        let rows = [
            vec!["ä".to_owned(), String::new()],
            vec!["bbb".into(), "c".into()],
        ];
        let text = table(&["A", "B"], rows.into_iter());
        assert_eq!(text, "A    B\nä\nbbb  c\n");
    }
}

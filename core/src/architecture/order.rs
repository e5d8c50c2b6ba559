//! Recognises a network whose code gives its layers other names, by the order and the shapes of its tensors.

use super::layout::{Entry, Layout};
use super::{Architecture, Family, ResnetBlock, all};

/// The only network that has these tensors, given with their keys in the order of the state dict and without counters,
/// and its keys in the same order.
///
/// Only ResNets of basic blocks are recognised, because the same blocks are written under many names. Other families
/// differ in what shapes do not show. Order and shapes do not show either whether a batch norm comes before or after
/// its convolution, so the keys must show which layers form a block, unless the shortcuts have layers of their own: a
/// block begins with its convolution. `None` where anything remains ambiguous.
#[must_use]
pub fn match_by_order(tensors: &[(&str, &[u64])]) -> Option<(&'static Architecture, Vec<String>)> {
    let [.., (_, weight), _] = tensors else { return None };
    let [classes, _] = **weight else { return None };
    let classes = u32::try_from(classes).ok().filter(|&classes| classes > 0)?;
    let mut matching =
        all().iter().filter(|architecture| is_basic_resnet(&architecture.family)).filter_map(|network| {
            let layout = network.layout(classes);
            is_match(&layout, tensors).then_some((network, layout))
        });
    let (architecture, layout) = matching.next()?;
    matching.next().is_none().then(|| (architecture, layout.entries.into_iter().map(|entry| entry.key).collect()))
}

fn is_basic_resnet(family: &Family) -> bool {
    match family {
        Family::CifarResnet(_) => true,
        Family::Resnet(network) => network.block == ResnetBlock::Basic,
        Family::WideResnet(_) | Family::Vgg(_) | Family::Mobilenet(_) | Family::Shufflenet(_) => false,
    }
}

fn is_match(layout: &Layout, tensors: &[(&str, &[u64])]) -> bool {
    let agree =
        |(entry, (name, shape)): (&Entry, &(&str, &[u64]))| entry.shape == *shape && leaf(&entry.key) == leaf(name);
    layout.entries.len() == tensors.len()
        && layout.entries.iter().zip(tensors).all(agree)
        && (has_shortcut_layers(layout) || blocks_agree(layout, tensors))
}

/// The part of a layer that a tensor is: `weight`, `running_mean`.
fn leaf(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, leaf)| leaf)
}

fn has_shortcut_layers(layout: &Layout) -> bool {
    layout.entries.iter().any(|entry| entry.key.contains("downsample") || entry.key.contains("shortcut"))
}

/// Whether the tensors of each block, and no others, are below one prefix.
fn blocks_agree(layout: &Layout, tensors: &[(&str, &[u64])]) -> bool {
    let mut start = 0;
    while start < tensors.len() {
        let Some(block) = block_of(&layout.entries[start].key) else {
            start += 1;
            continue;
        };
        let length = layout.entries[start..].iter().take_while(|entry| block_of(&entry.key) == Some(block)).count();
        let range = start..start + length;
        let prefix = shared_prefix(tensors[range.clone()].iter().map(|(name, _)| *name));
        let is_below = |name: &str| name.len() > prefix.len() && name.starts_with(&prefix);
        let others = tensors.iter().enumerate().filter(|(index, _)| !range.contains(index));
        if prefix.is_empty() || others.map(|(_, (name, _))| name).any(|name| is_below(name)) {
            return false;
        }
        start += length;
    }
    true
}

/// `layer1.0` for `layer1.0.conv1.weight`.
fn block_of(key: &str) -> Option<&str> {
    let (stage, rest) = key.split_once('.')?;
    let (block, _) = rest.split_once('.')?;
    stage.starts_with("layer").then(|| &key[..stage.len() + 1 + block.len()])
}

/// The components that all keys begin with, with the dot that follows.
fn shared_prefix<'a>(mut keys: impl Iterator<Item = &'a str>) -> String {
    let first: Vec<&str> = keys.next().unwrap_or_default().split('.').collect();
    // The last component is that of the tensor in its layer, the one before it the layer.
    let mut shared = first.len().saturating_sub(2);
    for key in keys {
        let same = first.iter().zip(key.split('.')).take_while(|(one, other)| *one == other).count();
        shared = shared.min(same);
    }
    first[..shared].iter().flat_map(|component| [*component, "."]).collect()
}

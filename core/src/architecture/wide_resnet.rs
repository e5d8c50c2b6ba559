//! Wide ResNets: S. Zagoruyko and N. Komodakis, "Wide Residual Networks", BMVC 2016. Batch norm and ReLU come before
//! each convolution.

use super::builder::{GraphBuilder, NodeId, SquareKernel, Style};
use super::layout::Layout;
use super::{Architecture, Family};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WideResnet {
    /// Blocks per stage. Each has two convolutions.
    pub blocks: u32,
    /// Factor of the 16 channels of the first stage.
    pub widen: u32,
}

impl WideResnet {
    pub(super) fn layout(&self, classes: u32, side: u32) -> Layout {
        let mut net = GraphBuilder::new(side, Style::KaimingZeroBias);
        let mut x = net.conv("conv1", net.images(), 16, SquareKernel::of(3));
        for stage in 0..3 {
            for block in 0..self.blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("block{}.layer.{block}", stage + 1);
                x = Self::block(&mut net, &name, x, (16 * self.widen) << stage, stride);
            }
        }
        x = net.norm("bn1", x);
        net.relu(x);
        net.classifier("fc", classes)
    }

    fn block(net: &mut GraphBuilder, name: &str, x: NodeId, channels: u32, stride: u32) -> NodeId {
        let active = net.norm(format_args!("{name}.bn1"), x);
        let active = net.relu(active);
        let y = net.conv(format_args!("{name}.conv1"), active, channels, SquareKernel::of(3).stride(stride));
        let y = net.norm(format_args!("{name}.bn2"), y);
        let y = net.relu(y);
        let y = net.conv(format_args!("{name}.conv2"), y, channels, SquareKernel::of(3));
        // The shortcut starts after the activation if the shape changes, and before the batch norm otherwise.
        let shortcut = if net.channels(x) == channels {
            x
        } else {
            net.conv(format_args!("{name}.convShortcut"), active, channels, SquareKernel::of(1).stride(stride))
        };
        net.add(shortcut, y)
    }
}

const fn network(name: &'static str, depth: u32, widen: u32) -> Architecture {
    Architecture { name, input_side: 32, family: Family::WideResnet(WideResnet { blocks: (depth - 4) / 6, widen }) }
}

pub(super) const NETWORKS: [Architecture; 4] =
    [network("wrn_16_1", 16, 1), network("wrn_16_2", 16, 2), network("wrn_40_1", 40, 1), network("wrn_40_2", 40, 2)];

//! What goes into a program and comes out of it: images, the tensors of the file, and logits.

use std::collections::HashSet;

use super::builder::Builder;
use super::error::OrFault;
use super::graph::{NOWHERE, Origin, Value, ValueId};
use super::schema::{Argument, InputSpec, OutputSpec, SizeMeta, TensorMeta};
use super::scope::{FOLLOWS, ValueMemory};
use super::size::{Size, shown_shape, symbol};
use super::stored::TensorRole;
use crate::checkpoint::Dtype;
use crate::checkpoint::error::shown;

/// Results of a network that a fault lists.
const MOST_LISTED: usize = 4;

impl Builder<'_> {
    /// Defines the images, and the symbol of the batch size.
    pub(super) fn images(&mut self, specs: &[InputSpec]) -> Option<ValueId> {
        let users: Vec<&Argument> = specs
            .iter()
            .filter_map(|spec| match spec {
                InputSpec::User(argument) => Some(argument),
                _ => None,
            })
            .collect();
        match self.define_images(&users) {
            Ok(images) => Some(images),
            Err(messages) => {
                for message in messages {
                    self.faults.add("input", message);
                }
                for user in users {
                    if let Argument::Tensor(name) = user {
                        self.scope.give_up(name);
                    }
                }
                None
            }
        }
    }

    /// All that is wrong with the images is said at once.
    fn define_images(&mut self, users: &[&Argument]) -> Result<ValueId, Vec<String>> {
        // Known whatever else is wrong, so that what is computed of the images has its recorded shape.
        self.batch = users.iter().find_map(|user| self.open_batch(user));
        let [Argument::Tensor(name)] = users else {
            let message = "the network must take one tensor, the images, and nothing else: export a module whose \
                           forward(images) gives it the rest";
            return Err(vec![message.to_owned()]);
        };
        let Some(meta) = self.recorded.get(name).cloned() else {
            return Err(vec!["PyTorch recorded no shape of the images".to_owned()]);
        };
        let mut faults = Vec::new();
        if let Some(SizeMeta::Int(count)) = meta.sizes.first() {
            self.fixed_batch = u64::try_from(*count).ok().map(Size::Fixed);
            faults.push(fixed_batch(&meta));
        }
        if meta.sizes.iter().skip(1).any(|size| matches!(size, SizeMeta::Expression(_))) {
            let message = "the images' height or width is open, and must be fixed: leave only the batch size open, with \
                           dynamic_shapes=({0: torch.export.Dim(\"batch\", min=2, max=65536)},)";
            faults.push(message.to_owned());
            return Err(faults);
        }
        match self.recorded_value(&meta, Origin::Images) {
            Err(message) => faults.push(message),
            Ok(mut value) => {
                self.with_open_batch(&mut value.shape);
                let is_map = matches!(*value.shape, [Size::Batch(1), Size::Fixed(3), Size::Fixed(_), Size::Fixed(_)]);
                if !is_map || value.dtype != Dtype::F32 {
                    let (shape, dtype) = (shown_shape(&value.shape), value.dtype);
                    let hint = hint_for_images(&value);
                    faults.push(format!(
                        "images are {shape} of {dtype}, and must be [B, 3, H, W] of F32 with fixed H and W{hint}"
                    ));
                }
                if faults.is_empty() {
                    return self.scope.define(name, value, &ValueMemory::Own).map_err(|message| vec![message]);
                }
            }
        }
        Err(faults)
    }

    /// The symbol of the batch size of a tensor from outside.
    fn open_batch(&self, user: &Argument) -> Option<String> {
        let Argument::Tensor(name) = user else { return None };
        match self.recorded.get(name)?.sizes.first()? {
            SizeMeta::Expression(batch) => symbol(&batch.expr_str).map(str::to_owned),
            SizeMeta::Int(_) => None,
        }
    }

    /// Where the batch size is fixed, which is a fault already, it counts as open.
    fn with_open_batch(&self, shape: &mut [Size]) {
        if let Some(first) = shape.first_mut()
            && self.fixed_batch == Some(*first)
        {
            *first = Size::Batch(1);
        }
    }

    /// Defines parameters, buffers and constants.
    pub(super) fn inputs(&mut self, specs: &[InputSpec], inputs: &[Argument]) {
        let mut agrees = specs.len() == inputs.len();
        let parameters = specs.iter().filter_map(|spec| match spec {
            InputSpec::Parameter { key, .. } => Some(key.as_str()),
            _ => None,
        });
        let parameters: HashSet<&str> = parameters.collect();
        for (spec, input) in specs.iter().zip(inputs) {
            let (name, stored) = match spec {
                InputSpec::User(argument) => {
                    agrees &= matches!((argument, input), (Argument::Tensor(one), Argument::Tensor(two)) if one == two);
                    continue;
                }
                InputSpec::Parameter { value, key } => (value, self.stored(key, &[TensorRole::Parameter])),
                InputSpec::Buffer { value, key, is_persistent: true } => (value, self.buffer(key, &parameters)),
                InputSpec::Buffer { value, key, .. } | InputSpec::Constant { value, key } => {
                    (value, self.stored(key, &[TensorRole::Constant]))
                }
                InputSpec::Other(kind) => {
                    self.faults.add("input", format!("an input of the kind {} is not supported", shown(kind)));
                    continue;
                }
            };
            agrees &= matches!(input, Argument::Tensor(input) if input == name);
            let defined = stored.and_then(|stored| self.define_stored(name, stored));
            if let Err(message) = defined {
                self.scope.give_up(name);
                self.faults.add(format!("input {}", shown(name)), message);
            }
        }
        if !agrees {
            self.faults.add("graph", "its inputs are not those of its signature");
        }
    }

    fn stored(&self, key: &str, roles: &[TensorRole]) -> OrFault<usize> {
        let is_constant = roles == [TensorRole::Constant];
        let keys = if is_constant { &self.tensors.constants } else { &self.tensors.state };
        let found = keys.get(key).copied().filter(|&index| roles.contains(&self.tensors.list[index].role));
        found.ok_or_else(|| format!("the file has no tensor {} of that kind that can be used", shown(key)))
    }

    /// A buffer of the state dict. It may be one of the parameters itself, as after register_buffer("b", layer.weight).
    fn buffer(&self, key: &str, parameters: &HashSet<&str>) -> OrFault<usize> {
        let Ok(index) = self.stored(key, &[TensorRole::Parameter]) else {
            return self.stored(key, &[TensorRole::Buffer]);
        };
        let tensors = &self.tensors.list;
        let first = tensors[index].tied_to.map(|first| tensors[first].tensor.name());
        if first.is_some_and(|first| parameters.contains(first)) {
            return Ok(index);
        }
        let key = shown(key);
        Err(format!("the buffer {key} is an nn.Parameter, which no optimiser gets: register {key}.detach() instead"))
    }

    fn define_stored(&mut self, name: &str, stored: usize) -> OrFault<()> {
        let tensor = &self.tensors.list[stored].tensor;
        let shape: Vec<Size> = tensor.shape().iter().map(|&size| Size::Fixed(size)).collect();
        // So that every use of a parameter is one of the same, whatever key it is under.
        let tensors = &self.tensors.list;
        let first = tensors[stored].tied_to.filter(|_| !tensors[stored].follows_a_parameter(tensors));
        let origin = Origin::Stored(first.unwrap_or(stored));
        let value = Value { dtype: tensor.dtype(), shape, origin };
        self.compare(name, &value)?;
        self.scope.define(name, value, &ValueMemory::Own).map(drop)
    }

    /// What a network returns, for a sentence.
    fn listed(&self, outputs: &[&Argument]) -> String {
        let shape_of = |name: &String| self.recorded_value(self.recorded.get(name)?, NOWHERE).ok();
        let listed = outputs.iter().take(MOST_LISTED).map(|output| match output {
            Argument::Tensor(name) => match shape_of(name) {
                Some(value) => format!("{} {}", shown(name), shown_shape(&value.shape)),
                None => shown(name),
            },
            _ => "something that is no tensor".to_owned(),
        });
        let listed: Vec<String> = listed.collect();
        let more = if outputs.len() > MOST_LISTED { ", …" } else { "" };
        if listed.is_empty() { String::new() } else { format!(". It returns {}{more}", listed.join(", ")) }
    }

    /// The value of the only output.
    pub(super) fn logits(&mut self, specs: &[OutputSpec], outputs: &[Argument]) -> Option<ValueId> {
        for spec in specs {
            if let OutputSpec::Other(kind) = spec {
                self.faults.add(
                    "output",
                    format!(
                        "an output of the kind {} is not supported: save what torch.export.export returns, without \
                         run_decompositions()",
                        shown(kind)
                    ),
                );
                return None;
            }
        }
        // None is nothing, as of an auxiliary classifier that is left out.
        let is_something = |argument: &&Argument| !matches!(argument, Argument::None);
        let specs = specs.iter().filter_map(|spec| match spec {
            OutputSpec::User(argument) => Some(argument),
            OutputSpec::Other(_) => None,
        });
        let specs: Vec<&Argument> = specs.filter(is_something).collect();
        let outputs: Vec<&Argument> = outputs.iter().filter(is_something).collect();
        let ([Argument::Tensor(name)], [Argument::Tensor(output)]) = (specs.as_slice(), outputs.as_slice()) else {
            let returned = self.listed(&outputs);
            let message = format!(
                "the network must return one tensor, the logits, and nothing else: export a module whose \
                 forward(images) returns the logits alone{returned}"
            );
            self.faults.add("output", message);
            return None;
        };
        let found =
            if name == output { self.scope.resolve(name) } else { Err("is not that of its signature".to_owned()) };
        let value = found.and_then(|id| {
            if self.scope.constant(id).is_some() {
                return Err("does not depend on the images".to_owned());
            }
            let Value { mut shape, dtype, .. } = self.scope.value(id).clone();
            self.with_open_batch(&mut shape);
            if dtype == Dtype::F32 && matches!(shape.as_slice(), [Size::Batch(1), Size::Fixed(_)]) {
                return Ok(id);
            }
            let hint = hint_for_logits(&shape, dtype);
            Err(format!("is {} of {dtype}, and must be logits [B, classes] of F32{hint}", shown_shape(&shape)))
        });
        match value {
            Ok(id) => Some(id),
            Err(message) => {
                if message != FOLLOWS {
                    self.faults.add("output", message);
                }
                None
            }
        }
    }
}

/// What to export a network with whose batch size is fixed.
fn fixed_batch(images: &TensorMeta) -> String {
    let sizes = images.sizes.iter().skip(1).take(3).map(|size| match size {
        SizeMeta::Int(size) => size.to_string(),
        // Which is a fault, too.
        SizeMeta::Expression(_) => "224".to_owned(),
    });
    let sizes: String = sizes.map(|size| format!(", {size}")).collect();
    format!(
        "the batch size is fixed: leave it open, and export with at least two images:\n\
         images = torch.zeros(2{sizes})\n\
         batch = torch.export.Dim(\"batch\", min=2, max=65536)\n\
         program = torch.export.export(model, (images,), dynamic_shapes=({{0: batch}},))"
    )
}

/// What to do about a network whose images are others than those of jobs.
fn hint_for_images(images: &Value) -> &'static str {
    match (images.dtype, images.shape.as_slice()) {
        (Dtype::F64 | Dtype::F16 | Dtype::Bf16, _) => {
            ": export the network after model.float(), with images of float32"
        }
        (Dtype::U8, _) => {
            ": images of jobs come normalised, in float32. Export the part of the network after its own conversion from \
             bytes"
        }
        // Those of a data set have three channels, which are equal if they are grey.
        (_, [_, Size::Fixed(1), _, _]) => {
            ": images of jobs have three channels. Export a module whose forward(images) gives this network \
             images.mean(1, keepdim=True)"
        }
        (_, [_, _, _, Size::Fixed(3)]) => {
            ": channels come first. Export a module whose forward(images) gives this network images.permute(0, 2, 3, 1)"
        }
        (_, [_, Size::Fixed(_), _, _]) => {
            ": images of jobs are red, green and blue. Export a module whose forward(images) makes the network's \
             channels of them"
        }
        _ => "",
    }
}

/// What to do about a network that returns something else than logits.
fn hint_for_logits(shape: &[Size], dtype: Dtype) -> &'static str {
    match (shape, dtype) {
        (_, Dtype::I64) => ": these are numbers of classes. Leave out the argmax",
        ([Size::Batch(1)], _) => ": a network of two classes needs a logit for each",
        ([Size::Batch(1), Size::Fixed(_), Size::Fixed(1), rest @ ..], _)
            if rest.iter().all(|&size| size == Size::Fixed(1)) =>
        {
            ": export a module whose forward(images) returns what this network does, after flatten(1)"
        }
        _ => "",
    }
}

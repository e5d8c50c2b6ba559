"""Modules that know their parameters and buffers by name, and compute nothing."""


class Module:
    def __init__(self, *arguments, **named):
        pass

    def shapes(self):
        """Of the state dict: name to shape."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, tuple)}
        for name, child in vars(self).items():
            if isinstance(child, Module):
                own |= {f"{name}.{key}": shape for key, shape in child.shapes().items()}
        return own

    def load_state_dict(self, state, strict=True):
        found = {key: tuple(tensor.shape) for key, tensor in state.items()}
        if found != self.shapes():
            wrong = sorted(set(found.items()) ^ set(self.shapes().items()))
            raise RuntimeError(f"the state dict does not fit: {wrong}")

    def eval(self):
        return self

    def __call__(self, images):
        from .. import Tensor

        last = [shape for name, shape in self.shapes().items() if name.endswith("weight")][-1]
        return Tensor(images.shape[0], last[0])


ReLU = ReLU6 = MaxPool2d = Dropout = Module


class Conv2d(Module):
    def __init__(self, inputs, outputs, kernel, stride=1, padding=0, *, groups=1, bias=True):
        self.weight = (outputs, inputs // groups, kernel, kernel)
        if bias:
            self.bias = (outputs,)


class BatchNorm2d(Module):
    def __init__(self, channels):
        self.weight = self.bias = self.running_mean = self.running_var = (channels,)
        self.num_batches_tracked = ()


class Linear(Module):
    def __init__(self, inputs, outputs):
        self.weight = (outputs, inputs)
        self.bias = (outputs,)


class Sequential(Module):
    def __init__(self, *modules):
        for index, module in enumerate(modules):
            setattr(self, str(index), module)

    def __iter__(self):
        return iter(vars(self).values())

import torch

model.train()  # a student has to be exported like this; a teacher may be after model.eval(), too
images = torch.zeros(2, 3, 224, 224)  # the size of the network's images
batch = torch.export.Dim("batch", min=2, max=65536)
program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
torch.export.save(program, "network.pt2")

"""The repeated blocks that an encoder of any family is made of, found in its module tree."""

from collections.abc import Iterator

from torch import nn

from genaf_hf.models.head import head_name, in_head


def encoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a classifier's encoder by name, from the first to the last.

    They are the members of the innermost lists of blocks of one class, e.g. `vit.layers.0` or
    `swin.encoder.layers.1.blocks.0`.

    Args:
        model: a classifier, also wrapped by PEFT.
    """
    head = head_name(model)
    lists = {
        name: module for name, module in model.named_modules() if not in_head(name, head) and is_block_list(module)
    }
    return {
        f"{name}.{index}": block
        for name, blocks in lists.items()
        if not any(other.startswith(f"{name}.") for other in lists)
        for index, block in enumerate(blocks)
    }


def is_block_list(module: nn.Module) -> bool:
    """Whether a module is a list of blocks of one class, each of which holds several layers to adapt."""
    return (
        isinstance(module, (nn.ModuleList, nn.Sequential))
        and len({type(block) for block in module}) == 1
        and len(list(adaptable_layers(module[0]))) > 1
    )


def adaptable_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The parts that adapters can be put on; one that PEFT has put adapters on is one part, as before."""
    if is_adaptable(module) or hasattr(module, "base_layer"):
        yield module
        return
    for child in module.children():
        yield from adaptable_layers(child)


def is_adaptable(module: nn.Module) -> bool:
    """Whether adapters can be put on a module; not on convolutions in groups."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)

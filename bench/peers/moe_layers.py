"""The same MoE layer by what others use: [T, D] -> [T, D], SwiGLU experts, softmax over all experts, the K largest of softmax + bias.

PEERS has a class for each. Where a peer ships experts alone, the router is the plain one here, with operations as in transformers.
"""
import torch
from torch import nn
from torch.nn import functional


class Router(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape["experts"], shape["width"]))
        self.register_buffer("bias", torch.zeros(shape["experts"]), persistent=False)
        self.choices, self.renormalize = shape["choices"], shape["renormalize"]

    def forward(self, tokens):
        """@returns gates [T, K] of the tokens' dtype, experts [T, K]"""
        scores = functional.softmax(functional.linear(tokens, self.weight), -1, dtype=torch.float32)
        experts = torch.topk(scores + self.bias, self.choices, -1, sorted=False).indices
        gates = scores.gather(1, experts)
        if self.renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return gates.to(tokens.dtype), experts


class Layer(nn.Module):
    """What layer.py asks of a peer; weights here lie as in PiMoE and transformers: [E, 2F, D], gate above up, and [E, D, F]."""

    def __init__(self, shape):
        super().__init__()
        experts, width, expert_width = shape["experts"], shape["width"], shape["expert_width"]
        self.router = Router(shape)
        self.experts, self.choices = experts, shape["choices"]
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * expert_width, width))
        self.down = nn.Parameter(torch.empty(experts, width, expert_width))

    def choose(self, tokens):
        """@returns experts [T, K]"""
        return self.router(tokens)[1]

    def bias(self):
        return self.router.bias

    def weights(self):
        """@returns {name in PiMoE: parts of parameters (parameter, slice of dimension 1) that side by side are its weight}"""
        return {"router": [whole(self.router.weight)], "gate_up": [whole(self.gate_up)], "down": [whole(self.down)]}


def whole(parameter):
    return parameter, slice(None)


class Loop(Layer):
    """What all are to compute: a loop over experts in float32. Not timed."""

    def forward(self, tokens):
        wide = tokens.float()
        scores = functional.softmax(wide @ self.router.weight.float().T, -1)
        experts = torch.topk(scores + self.router.bias, self.choices, -1).indices
        gates = scores.gather(1, experts)
        if self.router.renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        output = torch.zeros_like(wide)
        for expert in range(self.experts):
            token, choice = torch.where(experts == expert)
            gate, up = (wide[token] @ self.gate_up[expert].float().T).chunk(2, -1)
            result = (functional.silu(gate) * up) @ self.down[expert].float().T
            output = output.index_add(0, token, result * gates[token, choice, None])
        return output


class Torch(Layer):
    """Plain torch: sort, gather, torch._grouped_mm, scatter back."""

    def forward(self, tokens):
        gates, experts = self.router(tokens)
        slots = experts.reshape(-1)
        order = torch.argsort(slots, stable=True)
        ends = torch.bincount(slots, minlength=self.experts).cumsum(0).to(torch.int32)
        rows = order // self.choices
        gate, up = torch._grouped_mm(tokens[rows], self.gate_up.transpose(1, 2), offs=ends).chunk(2, -1)
        results = torch._grouped_mm(functional.silu(gate) * up, self.down.transpose(1, 2), offs=ends)
        return torch.zeros_like(tokens).index_add_(0, rows, results * gates.reshape(-1)[order, None])


class Transformers(Layer):
    """Hugging Face transformers' block of Qwen3-MoE; the blocks of OLMoE and Mixtral have the same experts."""

    def __init__(self, shape):
        nn.Module.__init__(self)
        from transformers import Qwen3MoeConfig
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
        config = Qwen3MoeConfig(hidden_size=shape["width"], moe_intermediate_size=shape["expert_width"], num_experts=shape["experts"],
                                num_experts_per_tok=shape["choices"], norm_topk_prob=shape["renormalize"], num_hidden_layers=1)
        config._experts_implementation = "grouped_mm"
        self.block = Qwen3MoeSparseMoeBlock(config)
        self.router = Router(shape)
        self.block.gate = Gate(self.router)  # its own, but for the bias

    def forward(self, tokens):
        return self.block(tokens.unsqueeze(0)).squeeze(0)

    def weights(self):
        experts = self.block.experts
        return {"router": [whole(self.router.weight)], "gate_up": [whole(experts.gate_up_proj)], "down": [whole(experts.down_proj)]}


class Gate(nn.Module):
    def __init__(self, router):
        super().__init__()
        self.router = router

    def forward(self, tokens):
        gates, experts = self.router(tokens)
        return None, gates, experts


class Torchtitan(Layer):
    """Whole, router included."""

    def __init__(self, shape):
        nn.Module.__init__(self)
        from torchtitan.models.moe import MoE, MoEArgs
        self.moe = MoE(MoEArgs(num_experts=shape["experts"], num_shared_experts=0, score_func="softmax", route_norm=shape["renormalize"],
                               score_before_experts=False, top_k=shape["choices"]), shape["width"], shape["expert_width"])

    def forward(self, tokens):
        return self.moe(tokens.unsqueeze(0)).squeeze(0)

    def choose(self, tokens):
        return self.moe.router(tokens, self.moe.expert_bias)[1]

    def bias(self):
        return self.moe.expert_bias

    def weights(self):
        experts = self.moe.experts
        return {"router": [whole(self.moe.router.gate.weight)], "gate_up": [whole(experts.w1), whole(experts.w3)], "down": [whole(experts.w2)]}


class Scattermoe(Layer):
    def __init__(self, shape):
        nn.Module.__init__(self)
        from scattermoe.mlp import GLUMLP
        self.router = Router(shape)
        self.experts = GLUMLP(shape["width"], shape["expert_width"], shape["experts"], shape["choices"], activation=nn.SiLU())

    def forward(self, tokens):
        return self.experts(tokens, *self.router(tokens))

    def weights(self):
        both, down, width = self.experts.experts.weight, self.experts.output_experts.weight, self.experts.hidden_size
        up_above_gate = [(both, slice(width, None)), (both, slice(0, width))]
        return {"router": [whole(self.router.weight)], "gate_up": up_above_gate, "down": [whole(down)]}


class Liger(Layer):
    def __init__(self, shape):
        super().__init__(shape)
        from liger_kernel.ops import LigerFusedMoEFunction
        self.function = LigerFusedMoEFunction

    def forward(self, tokens):
        gates, experts = self.router(tokens)
        return self.function.apply(tokens, self.gate_up, self.down, experts.int(), gates)


PEERS = {"torch": Torch, "transformers": Transformers, "torchtitan": Torchtitan, "scattermoe": Scattermoe, "liger": Liger}

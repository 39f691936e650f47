"""Tokenizers with the traits that make encoding hard, made from the byte tokenizer."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AddedToken, PreTrainedTokenizerFast

from tiny import SPECIALS, make_tokenizer


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(template: str, tokenizer: PreTrainedTokenizerFast | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the tokens of ChatML and has this chat template."""
    tokenizer = tokenizer or make_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = template
    return tokenizer


def with_bos() -> PreTrainedTokenizerFast:
    """Starts every text with BOS by itself, as LLaMA's does."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def merging(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Merges bytes even across words and lines, and has nothing that would keep a prompt from its answer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIALS, *alphabet, *map("".join, merges)])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")

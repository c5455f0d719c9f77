/** Parity of tokenizers and chat templates. */
import { renderChatTemplate, type Tokenizer } from '@minicpm-finetune/processor';
import type { DataReference } from './data-folder.js';
import { Check, type CheckLine } from './data-report.js';

interface TokenizeFile {
  cases: { text: string; ids: number[]; ids_no_special: number[]; decoded: string; decoded_skip_special: string }[];
  chat?: {
    messages: { role: string; content: string }[];
    add_generation_prompt: boolean;
    text: string;
    ids: number[];
  }[];
  attrs?: Record<string, number | null>;
}

/** transformers counts the padding token among those it skips, even where that is an ordinary character. */
async function decodeSkipping(tokenizer: Tokenizer, ids: readonly number[]): Promise<string> {
  const named = [tokenizer.bosToken, tokenizer.eosToken, tokenizer.padToken, tokenizer.unkToken];
  const skipped = new Set(named.map((token) => tokenizer.tokenId(token)));
  return await tokenizer.decode(
    ids.filter((id) => !skipped.has(id)),
    true,
  );
}

/** Ids that the reference names, under the names of the tokens they belong to. */
const ATTRIBUTES: Readonly<Record<string, string>> = {
  im_start_id: '<image>',
  im_end_id: '</image>',
  slice_start_id: '<slice>',
  slice_end_id: '</slice>',
  slice_start_token_id: '<slice>',
  slice_end_token_id: '</slice>',
  im_id_start_id: '<image_id>',
  im_id_end_id: '</image_id>',
  eot_id: '<|eot_id|>',
};

function checkAttributes(check: Check, tokenizer: Tokenizer, attributes: Record<string, number | null>): void {
  const named: Record<string, string | undefined> = {
    ...ATTRIBUTES,
    bos_id: tokenizer.bosToken,
    eos_id: tokenizer.eosToken,
    unk_id: tokenizer.unkToken,
    pad_token_id: tokenizer.padToken,
  };
  for (const [name, id] of Object.entries(attributes)) {
    if (id !== null && name in named) check.equal(name, tokenizer.tokenId(named[name]), id);
  }
  if (typeof attributes.len === 'number') check.equal('len', tokenizer.size, attributes.len);
}

/** All checks of `tokenize/<name>.json`. */
export async function checkTokenizer(
  folder: DataReference,
  name: string,
  tokenizer: Tokenizer,
): Promise<(CheckLine | undefined)[]> {
  const file = folder.json<TokenizeFile>(`tokenize/${name}.json`);
  if (!file) return [];
  const [ids, plain, decoded, skipped, chat, attributes] = [
    'tokenize.ids',
    'tokenize.ids_no_special',
    'tokenize.decoded',
    'tokenize.decoded_skip_special',
    'tokenize.chat',
    'tokenize.special_ids',
  ].map((check) => new Check(name, check)) as [Check, Check, Check, Check, Check, Check];
  for (const { text, ...expected } of file.cases) {
    const label = JSON.stringify(text).slice(0, 60);
    ids.equal(label, await tokenizer.encode(text, { addSpecialTokens: true }), expected.ids);
    plain.equal(label, await tokenizer.encode(text), expected.ids_no_special);
    decoded.equal(label, await tokenizer.decode(expected.ids_no_special), expected.decoded);
    skipped.equal(label, await decodeSkipping(tokenizer, expected.ids), expected.decoded_skip_special);
  }
  for (const [i, { messages, add_generation_prompt, ...expected }] of (file.chat ?? []).entries()) {
    const text = renderChatTemplate(tokenizer, messages, { add_generation_prompt });
    chat.equal(`chat ${i}`, text, expected.text);
    chat.equal(`chat ${i}`, await tokenizer.encode(text), expected.ids);
  }
  checkAttributes(attributes, tokenizer, file.attrs ?? {});
  return [ids, plain, decoded, skipped, chat, attributes].map((check) => check.line());
}

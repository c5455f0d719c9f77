/** The Chinese messages: every text of the sources has one, and each is used. */
import { join } from 'node:path';
import { CHINESE_TOPICS, chineseMessages, Translator } from '@minicpm-finetune/run/messages';
import { describe, expect, it } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.js';
import { messageTexts } from '../support/message-texts.js';

const ROOT = join(import.meta.dirname, '../../../..');
/** Files without messages: operators and broken invariants of tensors, chat templates, formats and commands of other programs, the catalogue itself, answers of the /v1 server, the contract of page and server. */
const NOT_OURS =
  /torch\/src\/(?!load-failure\.ts|safetensors\.ts|watchdog\.ts)|chat\/templates\.ts$|gguf\/(chat-template|modelfile|reader|vision)\.ts$|cli\/export\/programs\.ts$|run\/src\/messages\/|serve\/src\/(?!engine\/(defaults|engine|models)\.ts|http\/server\.ts)|dashboard\/src\/shared\//;
const texts = messageTexts(ROOT, ['run', 'processor', 'torch', 'minicpm-v', 'serve', 'dashboard', 'finetune'], (file) =>
  NOT_OURS.test(file),
);
const translator = new Translator(chineseMessages(COMMANDS.flatMap(({ flags }) => flags)));

/** Texts that are put together where the parts are known only at run time, each as one of its forms. */
const COMPOSED = [
  ...['error:', 'warning:', 'at:', 'cure:', 'hint:'],
  'an integer of at least 1',
  'integers of at least 1',
  'numbers above 0',
  'a number of at most 1',
  'a number above 0 and of at most 1',
  'a number of at least 0 and of at most 1',
  ...['Node', 'libtorch', 'processor', 'memory', 'compiler', 'devices', 'threads'].map((name) => `${name}: 41`),
  ...['disk of the run folder', 'disk of the Hugging Face cache', 'matmul bfloat16'].map((name) => `${name}: 41`),
  ...['weights', 'gradients', 'moments', 'communication', 'update', 'ok'],
  'note',
  'missing',
  '41 images',
  '41 samples/s',
  '--deepspeed ds.json: zero_optimization.x: nothing to set here, ignored.',
  '--deepspeed ds.json: zero_optimization.offload_param.pin_memory: nothing to set here, ignored.',
  '41 text-only records',
  '41 more errors',
  '41 more warnings',
  '41 records',
  '41/41 records',
  '41/41 steps',
  'eval at step 41: loss 2.31, exact_match 0.5 (41 records in 0:12)',
  'output_dir = "@" ("@")',
  '2 missing (a.weight, b.weight, and 41 more)',
  '2 unknown (a.weight, b.weight)',
  '2 of another shape (a: [1, 2] expected, [2] received)',
  '2 missing: a.weight, b.weight',
  '2 of another shape or type: a.weight (expected [1], received [2])',
  '2 unknown to the model: a.weight',
  '"@" is unknown at step 41: this model is not the best.',
  ...[
    'llm 2 layers × 4',
    'llm 1 layer × 4',
    'vpm 1 of 3 layers × 4',
    'llm q_proj in 2 layers and k_proj in 1 of 3 layers',
  ],
  'there is no folder a (did you mean b (upper and lower case differ)?), so the model of that name is downloaded from the hub',
  'adapters: llm 2 of 3 layers × 4, vpm 3 layers × 2',
  'The trained model is in out.',
  'The trained adapter is in out.',
  'Paths of images in "@" are written percent-encoded; they are read all the same, for instance "@" as "@".',
  ...['a.safetensors and 2 more', '2 unexpected (a.weight, b.weight)'],
  'adapter a: THE ADAPTER CHANGES NOTHING: its lora_B are all zero: it was saved before it learned anything, or in parts that were empty.',
  'a record {…} or "]"',
  'Expected a JSON object for line 2 but received "x" (line 2, column 5).',
  'Expected "}" in record 2 but received "]" (line 2, column 5).',
  'Expected "]" after 2 records but received the end of the file (byte 41).',
  "Expected record 2, which starts on line 2, to be closed before the file's end (byte 41) but received its end where a string is still open.",
  'Expected a record {…} after 3 records but received "x" (line 2, column 5).',
  'Rank 41 on a: 41 records',
  'Expected rank 2, 3 at "@" but its connection is closed ("@").',
  'Expected rank 2 at "@" within 41 s but it did not come.',
  'Expected the end of the file after the array\'s "]" but received "x" (line 2, column 5).',
].map((text) => ({ place: 'composed', text }));

/** What is the same in both languages, or no message. */
const SAME = [
  /^(of at least|above|of at most) 41$/, // parts of composed ones
  /^of another shape( or type)?$|^unknown to the model$|^(disk of the .*|matmul .*)$/, // the same
  /^41 "@" \("@", and 41 more\)$/, // the kinds are composed ones
  /^--lang|^One of |^Required\.$|^\(default: |^(records|steps|bytes|JSON Lines)$/, // help; units
  /^(glibc|Node) "@"$|^no link$|^"@" ms$|oneDNN$|^`node /, // names
  /^(JPEG (2000|XL|XR)|Photoshop \(PSD\)|GIMP \(XCF\)|Radiance HDR|P[PF]M \(Netpbm\)|UTF-(16|32) \([LB]E\)|GBK .*)$/, // names
  /^(gimp xcf|SQLite format 3|unrar x|tar -xf|received the end )$/, // first bytes, commands, a part that is looked for
  /^(characters that cannot be seen|a home folder as ~|a drive letter|a folder of Windows|Unicode normalisation|upper and lower case)$/, // keys
  /^(white space|a space|a line break) at its (start|end)$/, // keys
  /^(python -c "|import json, torch$|from safetensors\.torch import |(whole|config|parts|saved) = |save_file\(|config\[|json\.dump\()/, // Python
  /^lora_target_modules all-linear$|^"@" in "@"$|^(alpha|r) 41$/, // a flag; parts of composed ones
  /^(base|"@"), no decay$|^data wait$|^vision cache$|^live tensors$|^(gather|scatterAdd|alltoall) "@"$/, // profile.json and optimizer groups
  /^ +(minicpm-finetune|--)|^(wd decay|eps adam_eps epsilon|dtype float32|query question text .*|gpus gpu|RANK)$/, // command lines, names of flags
  /^compat (inference|official), thinking /, // names and values of flags
  /^it ended with code 41$|^while it had |^record 41 of "@"$/, // of an Error, which is printed with its stack
  /^(Question 1\?|Answer\.|Any question\?)|^minicpm-finetune generate$|^in the data$|^<span |^(image 41: |slice 41$)/, // probes; on pictures
  /^--on_bad_record skip: |^of an earlier version$/, // parts of others
  /^((next )?evaluation (data|batch)|(records|files|folder) (of )?(the (step|checkpoint)|"@")|next step|end of the training|run folder|finished run)$/, // what ranks agree on
  /^(lengths of records|output folder( and model)?|(earlier|best) checkpoints?|(best|trained) model|data threads|random state|Rank 41 on "@")$/, // the same; a part
  /^((room for a|whole) checkpoint|files beside the weights|states of the optimizer|checkpoint to (resume|other machines)|new files|files to hash|hashes of files)$/, // what ranks agree on
  /^(look for the folder of rank 0|folder to write|own ranges|ranges (to rank 0|of (tensors|"@")))$/, // the same
  /^(gradients|(counts|ids)( of rows)?|rows|sums|norm|units|weights|(forward|backward) pass) of "@"$|^micro-batch 41$|^pictures of the data$/, // the same
  /^"@", "@"$|^(bfloat|bool|float|u?int)\d* (trained|frozen)$|^evaluation, "@"$|^step 41, waiting for its records$|^the checkpoint of step 41$/, // the same
  /Expected a range of its 41 numbers/, // of an Error, which is printed with its stack
  /^The (model `"@"…?` does not exist\. |server is shutting down\.$)|for lora_(name|path) but received|^This server loads no adapters|^Expected a valid address/, // answers of the server
  /^(public|private), |^(default|script|style|img|connect|font)-src |^(base-uri|form-action|frame-ancestors) |^(retry|id|: ping|error): ?.*\n|^: ping/, // headers, and parts of streams
  /^(white space between the parts|the (body|query)|a (text|path) without the character NUL|minicpm-finetune ui)$|^"@" "@" \(exit code/, // keys, parts of others, a name
  /^Bearer |^blob |^\{\n|^\| record \||^"@" bool|^wandb |^nonfinite$|^"(llama|minicpm|qwen|AdamW|WarmupLR)"$/, // no message
];

const found = [...texts.filter(({ text }) => !SAME.some((one) => one.test(text))), ...COMPOSED].map(
  ({ place, text }) => ({ place, source: text, ...translator.translate(text) }),
);

describe('Chinese messages', () => {
  it('has each text of the sources', () => {
    const missing = found.filter((one) => one.used.length === 0 || one.missing.length > 0);
    expect(missing.map(({ place, source }) => `${place} ${JSON.stringify(source)}`)).toEqual([]);
  });

  it('has no entry that is not used', () => {
    const used = new Set(found.flatMap((one) => one.used));
    const keys = Object.values(CHINESE_TOPICS).flatMap((topic) => Object.keys(topic));
    expect(keys.filter((key) => !used.has(key))).toEqual([]);
  });
});

/**
 * The tokenizer of a checkpoint folder. Text to ids and back, with the names and ids of the special tokens of the
 * MiniCPM-V models. Tokenizing itself is Hugging Face's `tokenizers` library; conversations are in `chat/`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expected, parseJson, readText, shownPath, UserError } from '@minicpm-finetune/run';
import { Tokenizer as HfTokenizer } from 'tokenizers';

/** Token strings that mark images, the same in all models. */
export const IMAGE_TOKENS = {
  imageStart: '<image>',
  imageEnd: '</image>',
  sliceStart: '<slice>',
  sliceEnd: '</slice>',
  imageIdStart: '<image_id>',
  imageIdEnd: '</image_id>',
} as const;

export type ImageTokens = Readonly<Record<keyof typeof IMAGE_TOKENS, string>>;

/** The keys of tokenizer_config.json (or of its extra_special_tokens) that name these tokens in newer checkpoints. */
const TOKEN_KEYS = {
  imageStart: 'image_start_token',
  imageEnd: 'image_end_token',
  sliceStart: 'slice_start_token',
  sliceEnd: 'slice_end_token',
  imageIdStart: 'image_id_start_token',
  imageIdEnd: 'image_id_end_token',
} as const;

/**
 * Special tokens that are content, not structure: the models write them in answers about places in a picture. They stay
 * tokens wherever they are typed.
 */
const CONTENT_TOKENS = ['ref', 'box', 'quad', 'point'].flatMap((name) => [`<${name}>`, `</${name}>`]);

const CURE = 'Give the folder of a complete checkpoint; transformers writes the file with tokenizer.save_pretrained.';

export interface EncodeOptions {
  /** Add what the tokenizer adds by default, such as a first `<s>`. Default: false. */
  addSpecialTokens?: boolean;
  /** Read special tokens in the text as ordinary characters. Default: false. */
  plain?: boolean;
  /** The text continues earlier text: no space is put in front of it. Default: false. */
  continuation?: boolean;
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

/** The parts of tokenizer.json that are read. */
interface TokenizerJson {
  added_tokens?: AddedToken[];
  normalizer?: Step | null;
  pre_tokenizer?: Step | null;
  model: { vocab: Record<string, number> | [string, number][] };
}

/** A normalizer or pre-tokenizer, possibly a sequence of them. */
interface Step {
  type: string;
  normalizers?: Step[];
  pretokenizers?: Step[];
  [key: string]: unknown;
}

/** An object of JSON. Throws UserError for a file that is missing, or anything else. */
function readObject(path: string): { text: string; value: object } {
  let text: string;
  try {
    text = readText(path, 'the tokenizer', { cure: CURE });
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    const found = missing ? 'no such file' : (cause as Error).message;
    throw new UserError(`Expected a tokenizer file at ${shownPath(path)} but received: ${found}.`, {
      file: path,
      cure: CURE,
      cause,
    });
  }
  const value = parseJson(text, { what: 'the tokenizer', file: path, cure: CURE });
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { text, value };
  throw expected('an object', 'the tokenizer', value, { file: path, cure: CURE });
}

/** Whether a tokenizer puts a space in front of a text. */
function addsPrefix({ normalizer, pre_tokenizer }: TokenizerJson): boolean {
  return [normalizer, pre_tokenizer].some(
    (step) => JSON.stringify(withoutPrefix(step)) !== JSON.stringify(step ?? null),
  );
}

/** Removes from a normalizer or pre-tokenizer whatever puts a space in front of a text. Returns null if nothing is left. */
function withoutPrefix(step: Step | null | undefined): Step | null {
  if (!step || step.type === 'Prepend') return null;
  const inner = (steps: Step[]): Step[] => steps.map(withoutPrefix).filter((kept) => kept !== null);
  const result = { ...step };
  if (result.normalizers) result.normalizers = inner(result.normalizers);
  if (result.pretokenizers) result.pretokenizers = inner(result.pretokenizers);
  if (step.type === 'Metaspace') result.prepend_scheme = 'never';
  if ('add_prefix_space' in step) result.add_prefix_space = false;
  return result;
}

function isStructure(token: AddedToken): boolean {
  return token.special && !CONTENT_TOKENS.includes(token.content);
}

/**
 * The added tokens, without those that a text could spell as structure. The library numbers added tokens by their order
 * after the vocabulary, so those tokens are renamed to a string that occurs in no text, instead of removed.
 */
function withoutStructure({ added_tokens = [], model }: TokenizerJson): AddedToken[] {
  const vocabulary = new Set(
    Array.isArray(model.vocab) ? model.vocab.map(([piece]) => piece) : Object.keys(model.vocab),
  );
  return added_tokens
    .filter((token) => !isStructure(token) || !vocabulary.has(token.content))
    .map((token) => (isStructure(token) ? { ...token, content: `\u{10fffe}${token.id}` } : token));
}

/** Matches any of some strings; never, if there are none. */
function anyOf(texts: readonly string[]): RegExp {
  return new RegExp(texts.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|') || '(?!)');
}

function mapTokens(tokenOf: (name: keyof ImageTokens) => string): ImageTokens {
  const names = Object.keys(IMAGE_TOKENS) as (keyof ImageTokens)[];
  return Object.fromEntries(names.map((name) => [name, tokenOf(name)])) as Record<keyof ImageTokens, string>;
}

/** `"<s>"`, or `{"content": "<s>"}` as older files have it. */
function tokenName(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

/** A chat template in a configuration: one string, or a list of named ones of which the default counts. */
function templateText(value: unknown): string | undefined {
  if (!Array.isArray(value)) return typeof value === 'string' ? value : undefined;
  const found: { template?: unknown } | undefined = value.find((entry) => entry?.name === 'default');
  return typeof found?.template === 'string' ? found.template : undefined;
}

/** Text to ids and back for one checkpoint. Safe to use from several asynchronous calls at once. */
export class Tokenizer {
  /** Special tokens that are structure: never meant where a user typed them. */
  readonly structureTokens: readonly string[];
  /** Names as the configuration has them (`<s>`, `<|im_end|>`, …). */
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  readonly padToken: string | undefined;
  readonly unkToken: string;
  /** The marks of images, as the configuration names them or else as all models have them. */
  readonly imageTokens: ImageTokens;
  /** What stands for one token of a picture and of a video's frame, where the configuration names it. */
  readonly imagePad: string | undefined;
  readonly videoPad: string | undefined;
  /** The checkpoint's Jinja chat template, if it has one. */
  readonly chatTemplate: string | undefined;
  /** One more than the largest id. */
  readonly size: number;

  readonly #specialTokens: ReadonlySet<string>;
  readonly #addsPrefix: boolean;
  readonly #structurePattern: RegExp;
  readonly #specialPattern: RegExp;
  /** Ids of single characters: every turn ends in the same newline. */
  readonly #characters = new Map<string, Promise<number[]>>();
  readonly #variants = new Map<string, HfTokenizer>();

  readonly folder: string;
  readonly #hf: HfTokenizer;

  private constructor(
    folder: string,
    json: TokenizerJson,
    hf: HfTokenizer,
    config: Record<string, unknown>,
    chatTemplate: string | undefined,
  ) {
    this.folder = folder;
    this.#hf = hf;
    const added = json.added_tokens ?? [];
    this.#specialTokens = new Set(added.filter(({ special }) => special).map(({ content }) => content));
    this.structureTokens = added.filter(isStructure).map(({ content }) => content);
    this.#addsPrefix = addsPrefix(json);
    this.#structurePattern = anyOf(this.structureTokens);
    this.#specialPattern = anyOf([...this.#specialTokens]);
    this.bosToken = tokenName(config.bos_token);
    this.eosToken = tokenName(config.eos_token);
    this.padToken = tokenName(config.pad_token);
    this.unkToken = tokenName(config.unk_token) ?? '<unk>';
    const named = (key: string): string | undefined =>
      tokenName((config.extra_special_tokens as Record<string, unknown> | null | undefined)?.[key] ?? config[key]);
    this.imagePad = named('image_token');
    this.videoPad = named('video_token');
    this.imageTokens = mapTokens((name) => named(TOKEN_KEYS[name]) ?? IMAGE_TOKENS[name]);
    this.chatTemplate = chatTemplate ?? templateText(config.chat_template);
    this.size = Math.max(hf.getVocabSize(false), ...added.map(({ id }) => id + 1));
  }

  /**
   * Loads `tokenizer.json`, `tokenizer_config.json` and, if there, `chat_template.jinja` of a checkpoint folder.
   * @throws UserError when a file is missing or broken
   */
  static load(folder: string): Tokenizer {
    const path = join(folder, 'tokenizer.json');
    const { text, value: json } = readObject(path);
    const config = readObject(join(folder, 'tokenizer_config.json')).value as Record<string, unknown>;
    const templatePath = join(folder, 'chat_template.jinja');
    const template = existsSync(templatePath) ? readText(templatePath, 'the chat template') : undefined;
    let hf: HfTokenizer;
    try {
      hf = HfTokenizer.fromString(text);
    } catch (cause) {
      const message = `Expected a tokenizer in ${shownPath(path)} but received: ${(cause as Error).message.slice(0, 200)}.`;
      throw new UserError(message, { file: path, cure: CURE, cause });
    }
    return new Tokenizer(folder, json as TokenizerJson, hf, config, template);
  }

  /** Ids of a text. */
  async encode(text: string, options: EncodeOptions = {}): Promise<number[]> {
    const { addSpecialTokens = false, plain = false, continuation = false } = options;
    const bare = continuation && this.#addsPrefix;
    // The library puts a space in front of each piece between special tokens; only the first piece goes on from before.
    const special = bare && !plain ? this.#specialPattern.exec(text)?.index : undefined;
    if (special !== undefined) {
      const pieces = [text.slice(0, special), text.slice(special)] as const;
      const [head, rest] = await Promise.all([this.encode(pieces[0], options), this.encode(pieces[1])]);
      return [...head, ...rest];
    }
    const encode = async (): Promise<number[]> =>
      (await this.#variant(plain, bare).encode(text, null, { addSpecialTokens })).getIds();
    if (text.length !== 1) return await encode();
    const key = `${addSpecialTokens} ${plain} ${bare} ${text}`;
    let ids = this.#characters.get(key);
    if (!ids) {
      ids = encode();
      this.#characters.set(key, ids);
    }
    return [...(await ids)];
  }

  /** How many tokens each text has, special tokens in it read as ordinary characters. Many texts at once take much less time than one by one. */
  async count(texts: readonly string[]): Promise<number[]> {
    if (texts.length === 0) return [];
    const encodings = await this.#variant(true, false).encodeBatch([...texts], { addSpecialTokens: false });
    return encodings.map((encoding) => encoding.getLength());
  }

  /** Text of ids, special tokens left out if asked. */
  async decode(ids: readonly number[], skipSpecialTokens = false): Promise<string> {
    return await this.#hf.decode([...ids], skipSpecialTokens);
  }

  /** The id of a token, or undefined when the vocabulary has no such token. */
  tokenId(token: string | undefined): number | undefined {
    return token === undefined ? undefined : (this.#hf.tokenToId(token) ?? undefined);
  }

  /** The token of an id, or undefined when it is out of range. */
  token(id: number): string | undefined {
    return this.#hf.idToToken(id) ?? undefined;
  }

  /** The id of a token that has to be there. */
  requireId(token: string): number {
    const id = this.tokenId(token);
    if (id === undefined) throw this.#missing([token]);
    return id;
  }

  /** @throws UserError naming those of `tokens` that are not special tokens of this tokenizer */
  requireSpecial(tokens: readonly string[]): void {
    const missing = tokens.filter((token) => !this.#specialTokens.has(token));
    if (missing.length > 0) throw this.#missing(missing);
  }

  /** Whether a text ends in a special token. */
  endsInSpecial(text: string): boolean {
    for (const token of this.#specialTokens) if (text.endsWith(token)) return true;
    return false;
  }

  /** The first structural special token in a text, or undefined. */
  findStructure(text: string): string | undefined {
    return this.#structurePattern.exec(text)?.[0];
  }

  #missing(tokens: readonly string[]): UserError {
    return new UserError(
      `Expected the special tokens ${tokens.join(', ')} in the tokenizer of ${this.folder} but it has none of that name.`,
      {
        file: join(this.folder, 'tokenizer.json'),
        cure: 'Use the tokenizer of the MiniCPM-V checkpoint that is trained, and its --llm_type.',
      },
    );
  }

  /** The library's tokenizer changed for plain text or continuations; made when first needed. */
  #variant(plain: boolean, bare: boolean): HfTokenizer {
    if (!plain && !bare) return this.#hf;
    const key = `${plain} ${bare}`;
    let variant = this.#variants.get(key);
    if (!variant) {
      const json = readObject(join(this.folder, 'tokenizer.json')).value as TokenizerJson;
      if (plain) json.added_tokens = withoutStructure(json);
      if (bare) {
        json.normalizer = withoutPrefix(json.normalizer);
        json.pre_tokenizer = withoutPrefix(json.pre_tokenizer);
      }
      variant = HfTokenizer.fromString(JSON.stringify(json));
      this.#variants.set(key, variant);
    }
    return variant;
  }
}

/** Refuses a tokenizer that makes ids which the model has no embedding of. */
export function checkVocabulary(tokenizer: Tokenizer, vocabSize: number): void {
  if (tokenizer.size <= vocabSize) return;
  throw new UserError(
    `Expected a tokenizer of at most ${vocabSize} tokens, the vocab_size of config.json, but received one of ${tokenizer.size}.`,
    {
      file: join(tokenizer.folder, 'tokenizer.json'),
      cure: 'Tokenizer and model belong to different checkpoints: use the tokenizer files that the weights were published with.',
    },
  );
}

/** A conversation as code for a shell and for Python. To be run against `minicpm-finetune serve`. Pictures and videos are read from their files. */
import type { ChatModel } from '../../../src/shared/api.js';
import { type Picture, partsOf, type Question } from './content.js';
import type { Sampling } from './sampling.js';

export interface CodeMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string | Question;
}

/** The names of OpenAI's Python client; the others go through `extra_body`. */
const OPENAI = new Set([
  'temperature',
  'top_p',
  'max_completion_tokens',
  'seed',
  'frequency_penalty',
  'presence_penalty',
]);
const URL = 'http://127.0.0.1:8000/v1';

const MIME: Readonly<Record<string, string>> = {
  jpg: 'jpeg',
  jpeg: 'jpeg',
  png: 'png',
  webp: 'webp',
  gif: 'gif',
  bmp: 'bmp',
};
const VIDEO_MIME: Readonly<Record<string, string>> = {
  mov: 'quicktime',
  webm: 'webm',
  mkv: 'x-matroska',
  avi: 'x-msvideo',
  mpg: 'mpeg',
  mpeg: 'mpeg',
  ogv: 'ogg',
};

function mimeOf({ kind, name }: Picture): string {
  const extension = name.split('.').at(-1)?.toLowerCase() ?? '';
  return kind === 'image' ? `image/${MIME[extension] ?? 'png'}` : `video/${VIDEO_MIME[extension] ?? 'mp4'}`;
}
const safe = (name: string): string => name.replaceAll(/[^\w.-]/g, '_');

/** A shell's text, with pictures encoded by the shell. */
export function curlCode({ command, name }: ChatModel, messages: readonly CodeMessage[], sampling: Sampling): string {
  const pictures: Picture[] = [];
  const plain = messages.map(({ role, content }) => {
    if (typeof content === 'string' || content.pictures.length === 0)
      return { role, content: typeof content === 'string' ? content : content.text };
    const parts = partsOf(content).map((part) => {
      if (typeof part === 'string') return { type: 'text', text: part };
      pictures.push(part);
      const type = `${part.kind}_url`;
      return { type, [type]: { url: `@@${pictures.length - 1}@@` } };
    });
    return { role, content: parts };
  });
  const body = JSON.stringify({ model: name, messages: plain, ...sampling }, null, 2).replaceAll("'", "'\\''");
  const filled = body.replaceAll(/@@(\d+)@@/g, (_, number: string) => {
    const file = pictures[Number(number)]!;
    return `data:${mimeOf(file)};base64,'"$(base64 < ${safe(file.name)} | tr -d '\\n')"'`;
  });
  return [
    `# ${command}`,
    `curl ${URL}/chat/completions -H 'content-type: application/json' -d @- <<< '${filled}'`,
    '',
  ].join('\n');
}

/** Python with the package openai. */
export function pythonCode({ command, name }: ChatModel, messages: readonly CodeMessage[], sampling: Sampling): string {
  const known = Object.entries(sampling).filter(([key]) => OPENAI.has(key));
  const extra = Object.entries(sampling).filter(([key]) => !OPENAI.has(key));
  const hasPictures = messages.some(({ content }) => typeof content !== 'string' && content.pictures.length > 0);
  const picture = [
    'def media(path):',
    '    mime = mimetypes.guess_type(path)[0]',
    '    kind = mime.split("/")[0] + "_url"',
    '    data = base64.b64encode(open(path, "rb").read()).decode()',
    '    return {"type": kind, kind: {"url": f"data:{mime};base64,{data}"}}',
    '',
    '',
  ];
  return [
    `# ${command}`,
    ...(hasPictures ? ['import base64', 'import mimetypes', ''] : []),
    'from openai import OpenAI',
    '',
    ...(hasPictures ? ['', ...picture] : []),
    `client = OpenAI(base_url="${URL}", api_key="none")`,
    'answer = client.chat.completions.create(',
    `    model=${JSON.stringify(name)},`,
    '    messages=[',
    ...messages.map(({ role, content }) => `        {"role": "${role}", "content": ${pythonContent(content)}},`),
    '    ],',
    ...known.map(([key, value]) => `    ${key}=${JSON.stringify(value)},`),
    ...(extra.length > 0 ? [`    extra_body=${JSON.stringify(Object.fromEntries(extra))},`] : []),
    ')',
    'print(answer.choices[0].message.content)',
    '',
  ].join('\n');
}

function pythonContent(content: string | Question): string {
  if (typeof content === 'string') return JSON.stringify(content);
  if (content.pictures.length === 0) return JSON.stringify(content.text);
  const parts = partsOf(content).map((part) =>
    typeof part === 'string'
      ? `{"type": "text", "text": ${JSON.stringify(part)}}`
      : `media(${JSON.stringify(safe(part.name))})`,
  );
  return `[${parts.join(', ')}]`;
}

/** Ollama's Modelfile. Which files the model consists of, and how a conversation is written. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChatTemplate } from '@minicpm-finetune/processor';

const NAME = 'Modelfile';

export interface ModelfileParts {
  /** File names beside the Modelfile. */
  readonly model: string;
  readonly mmproj: string | null;
  readonly template: ChatTemplate;
}

/** Writes the file into a folder and returns its name. */
export function writeModelfile(folder: string, parts: ModelfileParts): string {
  writeFileSync(join(folder, NAME), modelfileText(parts));
  return NAME;
}

/** Text of the file. */
export function modelfileText({ model, mmproj, template }: ModelfileParts): string {
  return [
    `FROM ./${model}`,
    ...(mmproj === null ? [] : [`FROM ./${mmproj}`]),
    `TEMPLATE """${goTemplate(template)}"""`,
    `PARAMETER stop ${JSON.stringify(template.end)}`,
    '',
  ].join('\n');
}

/** The conversation in Go's template language. Pictures are put in front of their turn's text by Ollama. */
function goTemplate({ header, begin, beginWithSystem, end, afterEnd, endInHistory, thinking }: ChatTemplate): string {
  const close = endInHistory ? end + afterEnd : '';
  const turn = (role: 'user' | 'assistant' | 'system'): string => `${header[role]}{{ .Content }}${close}`;
  const system = header.system === null ? '' : `{{ else if eq .Role "system" }}${turn('system')}`;
  const first = begin === beginWithSystem ? begin : `{{ if .System }}${beginWithSystem}{{ else }}${begin}{{ end }}`;
  return [
    first,
    `{{ range .Messages }}{{ if eq .Role "user" }}${turn('user')}{{ else if eq .Role "assistant" }}${turn('assistant')}`,
    `${system}{{ end }}{{ end }}${header.assistant}${thinking?.empty ?? ''}`,
  ].join('');
}

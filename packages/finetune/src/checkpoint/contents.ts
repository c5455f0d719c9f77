/** Hashes the files of a folder by all ranks that see it. Each takes its part of them. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { contentOfFile } from '@minicpm-finetune/run';
import { attempt, exchangeTexts, fromFirst, settle } from '../parallel/agree.js';
import { type Content, filesBelow } from './durable.js';
import type { SharedFolder } from './shared-folder.js';

/** The content of each file that is there now, by its name. Collective. @throws on all ranks what went wrong on one */
export function contentsOf({ path, ranks, sees }: SharedFolder): Map<string, Content> {
  const largestFirst = (): string[] => {
    const sizes = filesBelow(path).map((name) => [name, statSync(join(path, name)).size] as const);
    return sizes.sort((a, b) => b[1] - a[1]).map(([name]) => name);
  };
  const names = fromFirst(ranks, 'files to hash', largestFirst);
  const seers = sees.flatMap((own, rank) => (own ? [rank] : []));
  const own = attempt(() =>
    names
      .filter((_, i) => seers[i % seers.length] === ranks.rank)
      .map((name): [string, Content] => [name, contentOfFile(join(path, name))]),
  );
  const contents = settle(ranks, 'hashes of files', own);
  const texts = exchangeTexts(ranks.group, JSON.stringify(contents), 'hashes of files');
  return new Map(texts.flatMap((text) => JSON.parse(text) as [string, Content][]));
}

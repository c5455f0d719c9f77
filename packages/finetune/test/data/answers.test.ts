/** Pairs as they are encoded, checked, measured and shown: the prompt and its pictures once, then both answers. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { checkRecords } from '../../src/cli/check-data/check-data.js';
import { formatReport } from '../../src/cli/check-data/report.js';
import { renderRecord } from '../../src/cli/render/render.js';
import { Dataset } from '../../src/data/dataset.js';
import { Encoder, type EncoderSetup, encoderSetup } from '../../src/data/encoder.js';
import { preflight } from '../../src/data/preflight.js';
import type { DataRecord } from '../../src/data/record.js';
import { SILENT } from '../../src/report/reporter.js';
import { DATA_FLAGS, MODEL, MODEL_FLAGS, picture } from '../support/made-data.js';

const folder = mkdtempSync(join(tmpdir(), 'answers-'));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, 'a.png'), await picture(120, 90, 1));
writeFileSync(join(folder, 'b.png'), await picture(60, 60, 2));

const user = { role: 'user', content: '<image>\nWhat is it?' } as const;
const answer = (content: string) => ({ role: 'assistant', content }) as const;
const CHOSEN = 'a small red cat';
const REJECTED = 'a dog';
const image = join(folder, 'a.png');
const record: DataRecord = {
  id: undefined,
  image,
  conversations: [user, answer(CHOSEN)],
  rejected: { image, conversations: [user, answer(REJECTED)] },
};

const setup = (loss: EncoderSetup['preference'] = 'dpo'): EncoderSetup =>
  encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS, loss);
const encoder = await Encoder.open(setup());
const alone = encoder.with({ preference: null });

/** The two sequences of a row, whole. */
function sequencesOf({ inputIds, labels, answers }: NonNullable<Awaited<ReturnType<Encoder['encode']>>['sample']>) {
  const { first, shared } = answers!;
  const whole = (all: Int32Array): number[][] => [
    [...all.subarray(0, first)],
    [...all.subarray(0, shared), ...all.subarray(first)],
  ];
  return { ids: whole(inputIds), labels: whole(labels) };
}

describe('a pair', () => {
  it('is both conversations with the prompt and its pictures once', async () => {
    const { sample } = await encoder.encode(record);
    const found = sequencesOf(sample!);
    for (const [i, conversations] of [record.conversations, record.rejected!.conversations].entries()) {
      const single = (await alone.encode({ id: undefined, image, conversations })).sample!;
      expect(found.ids[i]).toEqual([...single.inputIds]);
      expect(found.labels[i]).toEqual([...single.labels]);
      expect(sample!.imageBounds).toEqual(single.imageBounds);
      expect(sample!.pictures).toEqual(single.pictures);
    }
    expect(sample!.answers!.shared).toBeGreaterThan(sample!.imageBounds.at(-1)![1]);
  });

  it('learns the answers that differ alone', async () => {
    const turns = [user, answer('a cat'), { role: 'user', content: 'Sure?' }] as const;
    const later = {
      ...record,
      conversations: [...turns, answer('yes')],
      rejected: { image, conversations: [...turns, answer('no')] },
    };
    const { sample } = await encoder.encode(later);
    const { labels } = sequencesOf(sample!);
    const texts = await Promise.all(
      labels.map((own) => encoder.tokenizer.decode(own.filter((label) => label !== -100))),
    );
    expect(texts.map((text) => text.replace(/<\|im_end\|>/, ''))).toEqual(['yes', 'no']);
  });

  it('has its own pictures and prompt where the rejected answer is about another picture', async () => {
    const other = { ...record, rejected: { image: join(folder, 'b.png'), conversations: record.conversations } };
    const { sample } = await encoder.encode(other);
    const singles = await Promise.all(
      [image, join(folder, 'b.png')].map(
        async (own) => (await alone.encode({ id: undefined, image: own, conversations: record.conversations })).sample!,
      ),
    );
    expect(sample!.answers).toEqual({ shared: 0, first: singles[0]!.inputIds.length });
    expect(sample!.pictures).toEqual(singles.flatMap(({ pictures }) => pictures));
    const moved = singles[0]!.inputIds.length;
    const bounds = singles[1]!.imageBounds.map(([start, end]) => [start + moved, end + moved]);
    expect(sample!.imageBounds).toEqual([...singles[0]!.imageBounds, ...bounds]);
  });

  it('gets fewer slices for both answers where the longer one does not fit, and never loses part of a picture', async () => {
    const whole = (await encoder.encode(record)).sample!;
    const { sample, notices } = await encoder.encode(record, { maxLength: whole.answers!.first - 1 });
    expect(notices.map(({ kind }) => kind)).toEqual(['fewer_slices']);
    expect(sample!.pictures.length).toBeLessThan(whole.pictures.length);
    expect(sample!.imageBounds).toHaveLength(sample!.pictures.length);
    const cut = await encoder.encode(
      {
        ...record,
        image: undefined,
        conversations: [{ ...user, content: 'What?' }, answer(CHOSEN.repeat(9))],
        rejected: { image: undefined, conversations: [{ ...user, content: 'What?' }, answer(REJECTED)] },
      },
      { maxLength: 40 },
    );
    expect(cut.sample!.answers!.first).toBeLessThanOrEqual(40);
    expect((await encoder.encode(record, { maxLength: 20, overlong: 'drop' })).sample).toBeNull();
  });

  it('is refused where answers are learned one by one, and single answers where pairs are', async () => {
    const marked = { ...record, comparedKey: 'rejected' };
    await expect(alone.encode(marked)).rejects.toThrow(/answers to compare, by the key rejected/);
    const { rejected: _, ...single } = record;
    await expect(encoder.encode(single)).rejects.toThrow(/a rejected answer for a record of --preference dpo/);
    await expect(encoder.with({ preference: 'kto' }).encode(single)).rejects.toThrow(/the key label/);
  });
});

describe('files of pairs', () => {
  const file = join(folder, 'pairs.jsonl');
  const lines = [CHOSEN, 'a red cat on a mat', 'a cat', 'x'].map((chosen, i) =>
    JSON.stringify({
      image: 'a.png',
      conversations: [user, answer(chosen)],
      rejected: i === 3 ? 'x' : REJECTED,
    }),
  );
  writeFileSync(file, lines.join('\n'));

  it('check-data finds equal answers and tells their lengths', async () => {
    const report = await checkRecords({ paths: [file], encoder: setup(), threads: 0 });
    expect(report.errors).toMatchObject([{ record: 3, message: expect.stringMatching(/are the same: "x"/) }]);
    expect(report.answers).toMatchObject({ records: 3, rejected_longer: expect.closeTo(1 / 3) });
    expect(report.answers!.mean_chosen).toBeGreaterThan(report.answers!.mean_rejected);
    const text = formatReport(report, 10);
    expect(text).toMatch(/3 pairs: chosen answers have [\d.]+ tokens on average, rejected ones [\d.]+/);
  });

  it('the preflight measures both answers, and remembers the kind of training', async () => {
    const dataset = await Dataset.open([file], () => {});
    const badRecords = { onBadRecord: 'skip', maxBadFraction: 0.5 } as const;
    const look = { dataset, purpose: 'training', mode: 'quick', badRecords, threads: 0, reporter: SILENT } as const;
    const known = await preflight({ ...look, encoder: setup() });
    const { sample } = await encoder.encode(await dataset.read(0));
    expect(known.lengths[0]).toBe(sample!.inputIds.length);
    expect([...known.bad.keys()]).toEqual([3]);
    await expect(preflight({ ...look, encoder: setup(null) })).rejects.toThrow(/bad/);
    await dataset.close();
  });

  it('render shows where the rejected answer begins', async () => {
    const dataset = await Dataset.open([file], () => {});
    const rendered = await renderRecord(dataset, 0, encoder, 'inference');
    const { first, shared } = rendered.sample.answers!;
    expect(rendered.notices).toEqual([
      `The rejected answer begins at token ${first}: it follows the first ${shared} tokens, as the chosen one does.`,
    ]);
    const learned = rendered.tokens.filter(({ supervised }) => supervised).map(({ text }) => text);
    expect(learned.join('')).toContain(CHOSEN);
    expect(learned.join('')).toContain(REJECTED);
    await dataset.close();
  });
});

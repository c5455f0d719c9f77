/** Training data with the pictures of the recorded runs, for the screen Data. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const record = (id: number, image: string | null, question: string, answer: string): object => ({
  id: `invoice-${id}`,
  ...(image === null ? {} : { image }),
  conversations: [
    { role: 'user', content: image === null ? question : `<image>\n${question}` },
    { role: 'assistant', content: answer },
  ],
});

/** Writes the data below `root` and returns the path of their file. The last record's picture is missing. */
export function writeData(root: string): string {
  const folder = join(root, 'data');
  mkdirSync(folder);
  copyFileSync(join(root, 'digits', 'eval', 'images', '1000-320.png'), join(folder, 'total.png'));
  copyFileSync(join(root, 'digits', 'eval', 'images', '1001-1200.png'), join(folder, 'seven.png'));
  const records = [
    record(0, 'total.png', 'What is the total?', 'The total is 42.50.'),
    record(1, 'seven.png', 'Which number is this?', '7'),
    record(2, 'total.png', 'List the items with their prices.', 'Coffee 12.50, lunch 30.00; together 42.50.'),
    record(3, null, 'How much is 12.50 and 30.00?', '42.50'),
    record(4, 'total.png', '合计是多少？', '合计 42.50。'),
    record(5, 'receipt.png', 'What is the total?', 'The total is 7.20.'),
  ];
  const file = join(folder, 'train.json');
  writeFileSync(file, `${JSON.stringify(records, null, 1)}\n`);
  return file;
}

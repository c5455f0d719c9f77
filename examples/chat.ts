/** Asks a model about a picture, the answer streamed. `node examples/chat.ts MODEL PICTURE [ADAPTER]` */
import { loadModel } from '@minicpm-finetune/minicpm-v';

const [model, picture, adapter] = process.argv.slice(2);
if (model === undefined || picture === undefined) throw new Error('usage: chat.ts MODEL PICTURE [ADAPTER]');

const loaded = await loadModel(adapter === undefined ? { model } : { model, adapter });
const question = [{ role: 'user' as const, content: [{ image: picture }, 'What is this?'] }];

for await (const text of loaded.chat(question, { maxNewTokens: 64 })) process.stdout.write(text);
process.stdout.write('\n');

// Many questions at once are answered as one batch; the answers say why they ended and how long they are.
const [first, second] = await loaded.generate([question, [{ role: 'user', content: 'Say hello.' }]], {
  maxNewTokens: 16,
});
console.log(JSON.stringify({ first: first?.text, second: second?.text, end: second?.end }));
loaded.dispose();

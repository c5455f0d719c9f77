/** Chinese for `serve`. Its flags, its port, the names of adapters. What the server answers to clients stays English. */
import type { Messages } from '../translator.js';

export const SERVE: Messages = {
  'Stopping: requests under way are ended. Once more ends at once.':
    '正在停止：处理中的请求会被结束。再按一次立即结束。',
  'Loading the model; {1} is open.': '正在加载模型；{1} 已打开。',
  "Serving {1} at {2} (OpenAI's API). Ctrl-C ends the server.":
    '在 {2} 提供 {1}（OpenAI 的 API）。按 Ctrl-C 结束服务器。',
  'Take --load_in_8bit, --dtype bfloat16, a smaller --max_num_seqs or --cache_memory, or --device cpu.':
    '请使用 --load_in_8bit、--dtype bfloat16、更小的 --max_num_seqs 或 --cache_memory，或 --device cpu。',
  '--api_key: other users of this machine can see it; the variable MINICPM_API_KEY is not seen.':
    '--api_key：本机的其他用户能看到它；环境变量 MINICPM_API_KEY 则看不到。',
  'Expected an API key for a server that other machines reach (--host {1}) but received none.':
    '其他机器能访问的服务器（--host {1}）应有 API 密钥，但没有给出。',
  'Set the variable MINICPM_API_KEY to a secret, which clients send as their API key.':
    '请把环境变量 MINICPM_API_KEY 设为一个密钥，客户端以它作为 API 密钥。',
  'a key': '一个密钥',
  'Expected a key of ASCII characters without white space but received another one.':
    '密钥应由 ASCII 字符组成且不含空白，但收到其他内容。',
  'No client can send any other in a header.': '其他密钥无法由客户端在请求头中发送。',
  'Leave the flag out for none.': '不需要密钥时请不要写该参数。',
  'Expected a name and a folder, name=dir, for --adapter but received {1}.':
    '--adapter 应为名称和目录（name=dir），但收到 {1}。',
  'The name is what clients ask for as model: --adapter {1}.': '名称就是客户端请求的 model：--adapter {1}。',
  'a host such as example.com or example.com:8443': '一个主机，例如 example.com 或 example.com:8443',
  'It is a name or an address and perhaps a port, without http:// and without a path.':
    '它由名称或地址和可选的端口组成，不含 http:// 和路径。',
  'Expected a name of its own for each --adapter but received {1} twice.':
    '每个 --adapter 应有各自的名称，但 {1} 出现了两次。',
  'Choose another one.': '请换一个。',
  'an origin such as https://example.com': '一个来源，例如 https://example.com',
  'It has a scheme, a host and perhaps a port, and nothing behind them.':
    '它由协议、主机和可选的端口组成，后面没有其他内容。',
  'Expected a free port for --port but {1} is taken.': '--port 应为空闲端口，但 {1} 已被占用。',
  'Give another one, or --port 0 for any that is free.': '请换一个端口，或用 --port 0 取任意空闲端口。',
  'Expected a port that may be used for --port but {1} needs privileges.':
    '--port 应为可以使用的端口，但 {1} 需要特权。',
  'Give one above 1023.': '请给出大于 1023 的端口。',
  'Expected an address of this machine for --host but received {1}: {2}.': '--host 应为本机的地址，但收到 {1}：{2}。',
  'Give 127.0.0.1, or 0.0.0.0 for all.': '请写 127.0.0.1；写 0.0.0.0 则监听所有地址。',
  'Expected a new name for the adapter but received {1}, which is served already.':
    '适配器应使用新的名称，但收到 {1}，该名称已在使用。',
  'It is the name of the base: choose another one.': '这是基座模型的名称：请换一个。',
  'Choose another one, or unload that adapter first.': '请换一个名称，或先卸载那个适配器。',
  'Expected settings of sampling in generation_config.json but {1} is {2}.':
    'generation_config.json 应为采样设置，但 {1} 是 {2}。',
  'A request has {1}, which changes nothing here.': '请求中有 {1}，它在这里不起任何作用。',
  'It is not said again.': '此后不再提示。',
};

// Producer, relay and consumer of events, over real brokers.
//
//	node events.js producer NUMBER COUNT
//	node events.js relay BROKER
//	node events.js consumer BROKER GROUP CONSUMER [TOTAL]
//	node events.js naive BROKER GROUP
//
// BROKER is nats or redis.  Each process does its work until it is killed or
// meets an error, and begins anew where the database and the broker say when it
// is started again; it keeps nothing itself.  A producer, and a consumer with a
// TOTAL, end by themselves.
//
// Environment: PGHOST, PGPORT, PGDATABASE, PGUSER; NATS_PORT, REDIS_PORT.
'use strict';

const { Client } = require('pg');

const PARTITIONS = 4;
const STREAM = 'work';

const partition = (key) => Number(key) % PARTITIONS;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// NATS: one JetStream stream, one subject per partition.
async function nats() {
	const { connect, AckPolicy, DeliverPolicy, StringCodec, StorageType } = require('nats');
	const connection = await connect({ port: Number(process.env.NATS_PORT), reconnect: false, timeout: 2000 });
	const codec = StringCodec();
	const manager = await connection.jetstreamManager();
	const jetstream = connection.jetstream();

	connection.closed().then(() => process.exit(2));
	await manager.streams.add({ name: 'EVENTS', subjects: ['events.*'], storage: StorageType.File }).catch(() => {});
	return {
		// resolves when the broker has it
		publish: (event) => jetstream.publish(`events.${partition(event.key)}`, codec.encode(JSON.stringify(event))),
		// one at a time, so that what is delivered again keeps its place
		consume: async (group, number, handle) => {
			const name = `${group}-${number}`;

			await manager.consumers.add('EVENTS', {
				durable_name: name, filter_subject: `events.${number}`, ack_policy: AckPolicy.Explicit,
				deliver_policy: DeliverPolicy.All, max_ack_pending: 1, ack_wait: 1e9 });
			const consumer = await jetstream.consumers.get('EVENTS', name);

			for (;;) {
				const message = await consumer.next({ expires: 1000 });

				if (message && await handle([JSON.parse(codec.decode(message.data))], () => message.ackAck()))
					return;
				if (!message && await handle([], async () => {}))
					return;
			}
		},
	};
}

// Redis: one stream per partition.
async function redis() {
	const { createClient } = require('redis');
	const open = async () => {
		const client = createClient({ socket: { port: Number(process.env.REDIS_PORT), reconnectStrategy: false } });

		client.on('error', () => process.exit(2));
		await client.connect();
		return client;
	};
	const client = await open();

	return {
		publish: (event) => client.xAdd(`events:${partition(event.key)}`, '*', { event: JSON.stringify(event) }),
		consume: async (group, number, handle) => {
			const stream = `events:${number}`;
			const reader = await open();
			let from = '0';		// first what was delivered and not acknowledged

			await reader.xGroupCreate(stream, group, '0', { MKSTREAM: true }).catch(() => {});
			for (;;) {
				const reply = await reader.xReadGroup(group, 'only', { key: stream, id: from }, { COUNT: 20, BLOCK: 500 });
				const messages = reply ? reply[0].messages : [];

				if (messages.length === 0)
					from = '>';
				if (await handle(messages.map((m) => JSON.parse(m.message.event)),
					() => reader.xAck(stream, group, messages.map((m) => m.id))))
					return;
			}
		},
	};
}

const brokers = { nats, redis };

// A connection to the database; the process ends with it.
async function database() {
	const client = new Client();

	client.on('error', () => process.exit(3));
	await client.connect();
	return client;
}

// Operations, each sent again until it is answered.
async function producer(number, count) {
	const db = await database();
	const done = await db.query('SELECT count(*)::int AS n FROM work WHERE producer = $1', [number]);

	// the last ones once more, as a client does that has lost the answers
	for (let i = Math.max(0, done.rows[0].n - 5); i < count; i++)
		await db.query('SELECT produce($1, $2)', [number, `${number}-${i}`]);
	await db.end();
}

// Publish what is committed, in its order within a partition.
async function relay(name) {
	const broker = await brokers[name]();
	const db = await database();

	for (;;) {
		const { rows } = await db.query('SELECT * FROM idempotency.outbox_read($1, $2, 200, $3)', [name, STREAM, '1 second']);
		const published = [];

		for (let p = 0; p < PARTITIONS; p++)
			published.push((async () => {
				for (const row of rows.filter((r) => partition(r.key) === p))
					await broker.publish({ id: row.event_id, key: row.key, payload: row.payload });
			})());
		await Promise.all(published);
		if (rows.length > 0)
			await db.query('SELECT idempotency.outbox_ack($1, $2, $3)', [name, rows[rows.length - 1].position, rows[0].fence]);
		else
			await sleep(20);
	}
}

// The effect, once: accept() and it in one transaction; then the broker is told.
async function consumer(name, group, who, total) {
	const broker = await brokers[name]();
	let delivered = 0;

	await Promise.all([...Array(PARTITIONS).keys()].map(async (p) => {
		const db = await database();

		await broker.consume(group, p, async (events, acknowledge) => {
			for (const event of events)
				await db.query('SELECT consume($1, $2, $3, $4, $5)', [who, `${STREAM}-${p}`, event.id, event.key, event.payload]);
			if (events.length > 0)
				await acknowledge();
			delivered += events.length;
			return total > 0 && delivered >= total;
		});
	}));
	process.exit(0);
}

// The effect, without asking.
async function naive(name, group) {
	const broker = await brokers[name]();

	await Promise.all([...Array(PARTITIONS).keys()].map(async (p) => {
		const db = await database();

		await broker.consume(group, p, async (events, acknowledge) => {
			for (const event of events)
				await db.query('INSERT INTO naive (who, id) VALUES ($1, $2)', [name, event.id]);
			if (events.length > 0)
				await acknowledge();
			return false;
		});
	}));
}

const [role, ...args] = process.argv.slice(2);
const roles = {
	producer: () => producer(Number(args[0]), Number(args[1])),
	relay: () => relay(args[0]),
	consumer: () => consumer(args[0], args[1], args[2], Number(args[3] || 0)),
	naive: () => naive(args[0], args[1]),
};

process.on('unhandledRejection', () => process.exit(1));
roles[role]().catch((error) => {
	console.error(`${role} ${args.join(' ')}: ${error.message}`);
	process.exit(1);
});

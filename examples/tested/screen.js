/** The waiters' screen. */
export async function show(client, display) {
  const kitchen = await client.join("kitchen");
  for await (const { data } of kitchen.events("order.ready")) display(data.number);
}

export async function order(client, number) {
  await client.room({ topic_name: "kitchen" }).publish("order.placed", { number });
}

"""For Spark: `files KIND SOURCE OUT`, two local cores, the schema given, zstd Parquet."""

from __future__ import annotations

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

SCHEMA = (
    "order_id bigint, customer_id bigint, status string, amount double, country string, email string, "
    "created_at timestamp_ntz, sku string"
)


def files(kind: str, source: str, out: str) -> None:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .getOrCreate()
    )
    gateway = spark.sparkContext._gateway
    read = spark.read
    rows = read.csv(source, SCHEMA, header=True) if kind == "csv" else read.parquet(source)
    rows = rows.where(f.col("status") == "completed").withColumns(
        {
            "gross": f.col("amount") * 1.2,
            "country": f.upper("country"),
            "email": f.regexp_replace("email", "^(.).*@", "$1***@"),
        }
    )
    rows.write.parquet(out)
    spark.stop()
    # Wait for the virtual machine, so that what it took is counted.
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


if __name__ == "__main__":
    {"files": files}[sys.argv[1]](*sys.argv[2:])
